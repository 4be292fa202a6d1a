import { connect } from "@throughline/client";
import { Fold, type Part } from "@throughline/protocol";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket } from "ws";
import { type Line, startLine } from "../support/line.ts";
import { ScriptedRun } from "../support/run.ts";

let line: Line;
beforeAll(async () => {
  line = await startLine({ workers: 0 });
});
afterAll(() => line.stop());

test("P1: a client whose connection is cut between its pages gets all of it on the next", async () => {
  const run = await ScriptedRun.open(line.redis, line.prefix, "cut");
  const fold = new Fold();
  for (const [i, text] of ['x"\n'.repeat(1_000_000), "rest"].entries()) {
    const data: [object, object] = [{ type: "AIMessageChunk", id: "m", content: text }, {}];
    const part = { type: "messages", ns: [], data } as unknown as Part;
    await run.append([part]);
    fold.add(part, i + 1);
    if (i === 0) await run.writer.trim(1, JSON.stringify(fold.snapshot()));
  }
  let cuts = 0;
  /** Is cut off behind its third page, and then behind its fifth. */
  class Cut extends WebSocket {
    constructor(url: string, protocols: string[]) {
      super(url, protocols);
      let pages = 0;
      this.on("message", (data) => {
        if (!String(data).includes('"run.page"') || cuts === 2) return;
        if (++pages < 3 + 2 * cuts) return;
        cuts++;
        this.terminate();
      });
    }
  }
  const connection = connect(line.gateways[0]!.url, { WebSocket: Cut as never, random: () => 0 });
  try {
    const followed = connection.attach(run.runId);
    const events: string[] = [];
    const done = (async () => {
      for await (const event of followed.events) {
        events.push(`${event.kind} ${event.kind === "reset" ? "" : event.offset}`);
      }
    })();
    await run.finish();
    await done;
    expect(events).toEqual(["snapshot 1", "part 2", "part 3"]);
    expect(followed.text === fold.text()).toBe(true);
    expect(cuts).toBe(2);
  } finally {
    connection.close();
  }
}, 60_000);
