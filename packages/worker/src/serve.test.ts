import { expect, test } from "vitest";
import { serve } from "./serve.ts";

test.each([undefined, ""])("without a Redis (%j) says in one line what to set", async (redis) => {
  const failure: unknown = await serve({ agents: {}, redis }).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: "config", message: expect.stringContaining("set REDIS_URL") });
  expect((failure as Error).message).not.toContain("\n");
});
