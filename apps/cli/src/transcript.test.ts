import type { Part, RunEvent } from "@throughline/client";
import { parts } from "@throughline/client/testing";
import { describe, expect, it } from "vitest";
import { jsonLine, Transcript } from "./transcript.ts";

const { token, custom, started, completed } = parts;

/** What the parts come to, from offset 1 on: `out` and `err`, `·` before what matters less. */
function written(...events: (Part | RunEvent)[]): { out: string; err: string[] } {
  const transcript = new Transcript();
  let offset = 0;
  const outputs = events.flatMap((each) => {
    if ("kind" in each) {
      const event = each as RunEvent;
      if (event.kind !== "reset") offset = event.offset;
      return transcript.add(event);
    }
    offset += 1;
    return transcript.add({ kind: "part", offset, part: each as Part });
  });
  return {
    out: outputs.map((output) => (output.kind === "text" ? output.text : "")).join(""),
    err: outputs.flatMap(({ kind, text }) =>
      kind === "text" ? [] : [kind === "aside" ? `· ${text}` : text],
    ),
  };
}

function rewound(offset: number, to: number): RunEvent {
  const part = { type: "lifecycle" as const, ns: [], data: { event: "rewound" as const, attempt: 2, to } };
  return { kind: "rewound", offset, part, to };
}

function update(messages: unknown): Part {
  return { type: "updates", ns: [], data: { node: { messages } } as never };
}

describe("Transcript", () => {
  it("writes an answer's text as it comes, and nothing else", () => {
    const human: Part = { type: "messages", ns: [], data: [{ type: "human", id: "h", content: "hi" }, {}] };
    expect(written(started(), human, token("Once "), token(""), token("upon\n"), completed())).toEqual({
      out: "Once upon\n",
      err: ["· started", "· completed; saved in checkpoint k1 of thread t1"],
    });
  });

  it("begins another message on a line of its own", () => {
    expect(written(token("a", "m1"), token("b", "m1"), token("c", "m2")).out).toBe("ab\nc");
  });

  it("writes the text of blocks", () => {
    const content = [{ type: "text", text: "Hi" }, { type: "image" }, { type: "text", text: "!" }];
    const part: Part = {
      type: "messages",
      ns: [],
      data: [{ type: "AIMessageChunk", id: "m", content: content as never }, {}],
    };
    expect(written(part).out).toBe("Hi!");
  });

  it("writes messages that an update brings, unless they were streamed", () => {
    const whole = { type: "ai", id: "m1", content: "streamed" };
    const other = { type: "ai", id: "m2", content: "unstreamed" };
    const { out } = written(token("streamed"), update([{ type: "human", content: "?" }, whole, other]));
    expect(out).toBe("streamed\nunstreamed");
  });

  it("says what else happens in a line each, cut where it is long", () => {
    const { out, err } = written(custom("x".repeat(500)), { type: "tasks", ns: [], data: { id: 1 } });
    expect(out).toBe("");
    expect(err).toEqual([`· custom "${"x".repeat(99)}…`, '· tasks {"id":1}']);
  });

  it("says how a run ended, or goes on, where that is not all well", () => {
    const lifecycle = (data: Extract<Part, { type: "lifecycle" }>["data"]): Part => ({
      type: "lifecycle",
      ns: [],
      data,
    });
    const error = { name: "TypeError", message: "no" };
    expect(written(lifecycle({ event: "failed", error })).err).toEqual(["failed: TypeError: no"]);
    expect(written(lifecycle({ event: "resumed", attempt: 2 })).err).toEqual([
      "another worker goes on (attempt 2)",
    ]);
  });

  it("what waits for an answer is shown whole, and once; several with their ids", () => {
    const asked = { plan: ["a", "b"], why: "because ".repeat(20) };
    const interrupts = [
      { id: "i", value: "ok?" },
      { id: "j", value: asked },
    ];
    const update: Part = { type: "updates", ns: [], data: { __interrupt__: interrupts } };
    const ending: Part = { type: "lifecycle", ns: [], data: { event: "interrupted", interrupts } };
    expect(written(update, ending).err).toEqual([
      'waits for an answer (i): "ok?"',
      `waits for an answer (j): ${JSON.stringify(asked, null, 2)}`,
    ]);
    const one: Part = {
      type: "lifecycle",
      ns: [],
      data: { event: "interrupted", interrupts: interrupts.slice(0, 1) },
    };
    expect(written(one).err).toEqual(['waits for an answer: "ok?"']);
    const none: Part = { type: "lifecycle", ns: [], data: { event: "interrupted", interrupts: [] } };
    expect(written(none).err).toEqual(["waits where it was told to"]);
  });

  it("rewound: what was taken back is said, and what holds is written again", () => {
    const { out, err } = written(token("Once "), token("upon"), token(" a"), rewound(4, 2), token(" the"));
    expect(out).toBe("Once upon a\nOnce upon the");
    expect(err).toEqual(["a worker was lost; another goes on from offset 2; the text so far, as it holds:"]);
  });

  it("rewound: where no text was taken back, none is written again", () => {
    const { out, err } = written(token("Once "), custom("x"), rewound(3, 1), token("upon"));
    expect(out).toBe("Once upon");
    expect(err.at(-1)).toBe("a worker was lost; another goes on from offset 1");
  });

  it("rewound: a message that was taken back whole may be written as another", () => {
    const { out } = written(token("a", "m1"), token("b", "m2"), rewound(3, 1), token("b", "m3"));
    expect(out).toBe("a\nb\na\nb");
  });

  it("reset: begins again", () => {
    const reset: RunEvent = { kind: "reset", epoch: "e2", reason: "lost" };
    const { out, err } = written(token("old"), reset, { kind: "part", offset: 1, part: token("new") });
    expect(out).toBe("old\nnew");
    expect(err[0]).toContain("(lost)");
  });

  it("snapshot: writes what came before, or only the rest of it", () => {
    const snapshot = (offset: number, content: string): RunEvent => ({
      kind: "snapshot",
      offset,
      messages: [
        { type: "human", id: "h", content: "tell me" },
        { type: "ai", id: "m1", content },
      ],
      values: {},
      complete: ["h"],
      calls: {},
    });
    expect(written(snapshot(5, "Once "), token("upon")).out).toBe("Once upon");
    expect(written(token("On"), snapshot(5, "Once "), token("upon")).out).toBe("Once upon");
  });
});

describe("jsonLine", () => {
  it("is the part with its offset, or what stands in its place", () => {
    const line = (event: RunEvent) => JSON.parse(jsonLine(event));
    expect(line({ kind: "part", offset: 3, part: custom("x") })).toEqual({
      offset: 3,
      type: "custom",
      ns: [],
      data: "x",
    });
    expect(line(rewound(4, 2))).toMatchObject({
      offset: 4,
      type: "lifecycle",
      data: { event: "rewound", to: 2 },
    });
    expect(line({ kind: "reset", epoch: "e2", reason: "lost" })).toEqual({
      reset: { epoch: "e2", reason: "lost" },
    });
    expect(line({ kind: "skipped", offset: 2, to: 5 })).toEqual({ skipped: { offset: 2, to: 5 } });
  });
});
