import { connect } from "@throughline/client";
import type { AgentContext } from "@throughline/worker";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket } from "ws";
import { Gate } from "../support/agents.ts";
import { type Line, startLine } from "../support/line.ts";
import { Transcript } from "../support/transcript.ts";
import { patienceMs, until } from "../support/until.ts";

let line: Line;
let gate = new Gate();

/** Talks until it is told to stop, then says how much it said. */
async function* talker({ signal }: AgentContext) {
  const mine = gate;
  let i = 0;
  while (!mine.isOpen && !signal.aborted) {
    for (let burst = (i * 7919) % 5; burst >= 0; burst--) yield word(i++);
    await new Promise((resolve) => setTimeout(resolve, (i * 31) % 4));
  }
}

function word(i: number): string {
  return i % 11 === 0 ? `${i}😀 ` : `${i} `;
}

function words(n: number): string {
  return Array.from({ length: n }, (_, i) => word(i)).join("");
}

beforeAll(async () => {
  line = await startLine({ agents: { talker }, gateways: 2 });
});
afterAll(() => line.stop());

test("P1: a socket that drops 200 times in one run: the client's text is the agent's, each offset once", async () => {
  gate = new Gate();
  const owner = await line.client();
  const { runId } = await owner.call("run.start", { agent: "talker", subscribe: false });
  const transcript = new Transcript(runId, 0);
  const whole = await owner.follow(runId);
  for (let drop = 0; drop < 200; drop++) {
    const client = await line.client(drop % 2);
    const from = transcript.last;
    const answered = client.follow(runId, {}, transcript);
    answered.catch(() => {}); // The socket may be gone before the answer.
    // Some drop before the answer, some in the middle of the catching up, some live.
    if (drop % 4 !== 0) await answered;
    if (drop % 4 > 1) await until(() => transcript.last > from);
    if (drop % 4 > 2) await until(() => transcript.last > from + 5);
    client.drop();
    await client.closed;
  }
  gate.open();
  await (await line.client(1)).follow(runId, {}, transcript);
  const ending = await transcript.ended();
  await whole.ended();
  expect(ending.event).toBe("completed");
  const head = transcript.last;
  expect(transcript.offsets).toEqual(Array.from({ length: head }, (_, i) => i + 1));
  expect(transcript.delivered).toEqual(whole.delivered);
  expect(transcript.text).toBe(words(head - 2));
  expect(head).toBeGreaterThan(300);
});

test("P1: the client library over sockets that drop again and again tells the same story", async () => {
  gate = new Gate();
  const sockets = new Set<WebSocket>();
  class Cuttable extends WebSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(url, protocols);
      sockets.add(this);
      this.on("close", () => sockets.delete(this));
    }
  }
  const connection = connect(line.gateways[0]!.url, {
    WebSocket: Cuttable as never,
    // No waiting between a drop and the next try: the lower bound of the backoff.
    random: () => 0,
  });
  try {
    const run = connection.start({ agent: "talker" });
    const offsets: number[] = [];
    let drops = 0;
    let text = "";
    const followed = await run;
    const cutting = (async () => {
      let seen = 0;
      while (drops < 30) {
        await until(() => offsets.length > seen + 1, patienceMs, "progress");
        seen = offsets.length;
        for (const socket of sockets) socket.terminate();
        drops++;
      }
      gate.open();
    })();
    for await (const { offset, part } of followed) {
      offsets.push(offset);
      if (part.type === "messages") text += part.data[0].content;
    }
    await cutting;
    expect(drops).toBe(30);
    expect(offsets).toEqual(Array.from({ length: offsets.length }, (_, i) => i + 1));
    expect(text).toBe(words(offsets.length - 2));
    expect(followed.text).toBe(text);
    expect((await followed.ended).event).toBe("completed");
  } finally {
    connection.close();
  }
});
