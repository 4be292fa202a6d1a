import { expect, test } from "vitest";
import { z } from "zod";
import { ConfigError, readConfig } from "./config.ts";

const schema = z.object({
  PORT: z.coerce.number().int().min(1).max(65_535).default(8787).describe("a port, 1 to 65535"),
  AUTH: z.enum(["none", "jwt"]).describe("none or jwt").default("none"),
  SECRET: z.string().min(32).describe("at least 32 characters"),
});

function failure(env: Record<string, string | undefined>): ConfigError {
  try {
    readConfig(schema, env);
  } catch (error) {
    if (error instanceof ConfigError) return error;
  }
  throw new Error("it should have failed");
}

test("answers what the schema makes of the environment, and takes an empty variable for an unset one", () => {
  const SECRET = "x".repeat(32);
  expect(readConfig(schema, { PORT: "", AUTH: "jwt", SECRET, HOME: "/" })).toEqual({
    PORT: 8787,
    AUTH: "jwt",
    SECRET,
  });
});

test("names each bad variable in a line, says what would be right, and never prints a value", () => {
  const error = failure({ PORT: "seventy", AUTH: "hunter2", SECRET: "too-short-secret" });
  expect(error.code).toBe("config");
  expect(error.lines).toEqual([
    "PORT: expected number, received NaN; it should be a port, 1 to 65535",
    expect.stringMatching(/^AUTH: .*; it should be none or jwt$/),
    expect.stringMatching(/^SECRET: .*; it should be at least 32 characters$/),
  ]);
  expect(error.message.split("\n")).toHaveLength(3);
  expect(error.message).not.toMatch(/seventy|hunter2|too-short-secret/);
});

test("says which variable is missing", () => {
  expect(failure({}).lines).toEqual(["SECRET: is not set; it should be at least 32 characters"]);
});

test("says what a rule over several variables says", () => {
  const pair = schema.partial({ SECRET: true }).refine((env) => env.AUTH === "none" || env.SECRET, {
    message: "AUTH=jwt needs SECRET",
  });
  expect(() => readConfig(pair, { AUTH: "jwt" })).toThrow("AUTH=jwt needs SECRET");
});
