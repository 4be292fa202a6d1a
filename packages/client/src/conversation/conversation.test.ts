import { type FlatMessage, lifecycle, type Part, type ThreadRun } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { type Connection, connect } from "../connection.ts";
import { type Command, parts, ScriptedGateway, ScriptedThread } from "../testing/index.ts";
import {
  type Conversation,
  type ConversationOptions,
  type ConversationView,
  conversation,
  initialView,
} from "./index.ts";

let gateway: ScriptedGateway;
let thread: ScriptedThread;
let connection: Connection;
let chat: Conversation;
/** Every snapshot that was drawn. */
let views: ConversationView[];

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  thread = new ScriptedThread();
  thread.serve(gateway);
  connection = connect(gateway.url, { WebSocket });
  views = [];
});

afterEach(async () => {
  chat?.close();
  connection.close();
  await gateway.close();
});

function open(options: Partial<ConversationOptions> = {}): Conversation {
  chat = conversation(connection, { agent: "chat", threadId: "t1", ...options } as ConversationOptions);
  chat.subscribe(() => views.push(chat.getSnapshot()));
  return chat;
}

const human = (id: string, content: string): FlatMessage => ({ type: "human", id, content });
const ai = (id: string, content: string, more: object = {}): FlatMessage => ({
  type: "ai",
  id,
  content,
  ...more,
});
const completed = (): Part => lifecycle({ event: "completed" });
const view = () => chat.getSnapshot();
const shown = () => view().messages.map(({ type, text, status }) => `${type}:${text}:${status}`);

const asks = (...messages: FlatMessage[]) => ({ messages }) as unknown as NonNullable<ThreadRun["input"]>;

function until(check: () => void): Promise<void> {
  return vi.waitFor(check, { timeout: 60_000, interval: 2 });
}

async function isIdle(): Promise<void> {
  await until(() => expect(view().status).toEqual({ status: "idle" }));
}

/** Takes the next start, and answers it as the gateway does: the run comes into line, and the watch tells of it. */
async function begin(runId: string): Promise<{ params: Record<string, unknown>; question: FlatMessage[] }> {
  const command = await thread.peer.command("run.start");
  const params = command.params as Record<string, unknown>;
  const { threadId, epoch } = { threadId: String(params.threadId), epoch: "e1" };
  const more: Partial<ThreadRun> = { input: params.input as never };
  if (params.checkpointId !== undefined) more.from = params.checkpointId as string | null;
  thread.peer.answer(command, { runId, threadId, status: "queued", epoch, created: true });
  thread.run(runId, "queued", more);
  const question = (params.input as { messages?: FlatMessage[] } | undefined)?.messages ?? [];
  return { params, question };
}

/** The run streams an answer, and ends; the thread's head has it before. */
function answer(
  runId: string,
  before: FlatMessage[],
  question: FlatMessage[],
  id: string,
  text: string,
): string {
  thread.started(runId, question);
  for (const piece of text.split(/(?<= )/)) thread.parts(runId, parts.token(piece, id));
  const checkpointId = thread.save([...before, ...question, ai(id, text)]);
  thread.parts(runId, completed());
  thread.run(runId, "completed");
  return checkpointId;
}

describe("a conversation", () => {
  it("shows the thread's messages, and of a run that somebody else started question and answer", async () => {
    thread.save([human("h1", "Hi"), ai("a1", "Hello")]);
    open();
    expect(view().status).toEqual({ status: "loading" });
    await isIdle();
    expect(shown()).toEqual(["human:Hi:done", "ai:Hello:done"]);
    thread.run("r1", "queued", { input: asks(human("h2", "And?")) });
    await until(() => expect(shown().at(-1)).toBe("human:And?:sending"));
    thread.started("r1", [human("h2", "And?")]);
    thread.parts("r1", parts.token("We", "a2"));
    await until(() => expect(shown().slice(2)).toEqual(["human:And?:done", "ai:We:streaming"]));
    expect(view().status).toEqual({ status: "running", runId: "r1" });
    // Nobody asked for the run's parts.
    expect(thread.peer.received.map(({ method }) => method)).not.toContain("run.subscribe");
  });

  it("joins a run in its middle, from the watch's answer alone", async () => {
    thread.save([human("h1", "Hi")]);
    thread.answers["thread.watch"] = false;
    open();
    await until(() => expect(thread.peer).toBeDefined());
    const command = await thread.peer.command("thread.watch");
    expect(command.params).toEqual({ threadId: "t1", after: "head", runs: { pages: true, known: {} } });
    const runs: ThreadRun[] = [
      { runId: "r1", agent: "chat", status: "running", input: asks(human("h2", "?")) },
    ];
    thread.peer.answer(command, { thread: thread.record, runs, first: 1, head: 7, epoch: "w1" });
    thread.parts("r1", parts.started(), parts.token("ab", "a2"));
    await until(() => expect(shown()).toEqual(["human:Hi:done", "human:?:done", "ai:ab:streaming"]));
  });

  it("puts what is sent on the screen at once, and nothing flashes until it is in the thread", async () => {
    const before = [human("h1", "Hi"), ai("a1", "Hello")];
    thread.save(before);
    open();
    await isIdle();
    const [first, second] = view().messages;
    const sent = chat.send("And?");
    expect(shown().at(-1)).toBe("human:And?:sending");
    expect(view().status).toEqual({ status: "sending" });
    const { params, question } = await begin("r1");
    expect(params).toMatchObject({
      agent: "chat",
      threadId: "t1",
      subscribe: false,
      idempotencyKey: expect.any(String),
    });
    expect(await sent).toBe(true);
    views = [];
    answer("r1", before, question, "a2", "so it goes on and on");
    await isIdle();
    expect(shown()).toEqual([
      "human:Hi:done",
      "ai:Hello:done",
      "human:And?:done",
      "ai:so it goes on and on:done",
    ]);
    // One id from the first moment on, and no text that was there is ever gone.
    expect(new Set(views.map(({ messages }) => messages[2]?.id))).toEqual(new Set([question[0]!.id]));
    const texts = views.map(({ messages }) => messages[3]?.text ?? "");
    for (const [i, text] of texts.entries()) expect(text.startsWith(texts[i - 1] ?? "")).toBe(true);
    expect(view().messages[0]).toBe(first);
    expect(view().messages[1]).toBe(second);
    // What the thread says of the answer is what was streamed: the same object, too.
    const last = views.at(-1)!.messages[3];
    expect(
      views
        .filter(({ messages }) => messages[3]?.text === last!.text && messages[3]?.status === "done")
        .every(({ messages }) => messages[3] === last),
    ).toBe(true);
  });

  it("takes back what is refused, says why, and tries it again", async () => {
    thread.save([human("h1", "Hi")]);
    open();
    await isIdle();
    const sent = chat.send("And?");
    expect(shown()).toHaveLength(2);
    thread.peer.refuse(await thread.peer.command("run.start"), "thread_busy");
    expect(await sent).toBe(false);
    expect(shown()).toEqual(["human:Hi:done"]);
    expect(view().error).toEqual({
      action: "send",
      code: "thread_busy",
      message: "no: thread_busy",
      retryable: true,
    });
    const again = chat.retry();
    expect(shown()).toEqual(["human:Hi:done", "human:And?:sending"]);
    await begin("r1");
    expect(await again).toBe(true);
    expect(view().error).toBeUndefined();
  });

  it("begins a thread with the first message, under an id of its own, and watches it then", async () => {
    thread.exists = false;
    open({ threadId: undefined as never });
    expect(view().status).toEqual({ status: "new" });
    const sent = chat.send("Hi");
    expect(shown()).toEqual(["human:Hi:sending"]);
    await until(() => expect(thread.peer).toBeDefined());
    const command = await thread.peer.command("run.start");
    expect(command.params.subscribe).toBe(true);
    const { threadId } = command.params;
    expect(chat.threadId).toBeUndefined();
    Object.assign(thread, { threadId, exists: true });
    thread.peer.answer(command, {
      runId: "r1",
      threadId: threadId!,
      status: "queued",
      epoch: "e1",
      created: true,
    });
    expect(await sent).toBe(true);
    expect(view().threadId).toBe(threadId);
    const { messages: question } = command.params.input as { messages: FlatMessage[] };
    await until(() =>
      expect(thread.peer.received.some(({ method }) => method === "thread.watch")).toBe(true),
    );
    answer("r1", [], question, "a1", "Hello");
    await isIdle();
    expect(shown()).toEqual(["human:Hi:done", "ai:Hello:done"]);
    expect(views.some(({ messages, status }) => messages.length === 0 && status.status === "new")).toBe(
      false,
    );
  });

  it("begins the thread that it was given an id for, where there is none yet", async () => {
    thread.exists = false;
    open({ threadId: "t1" });
    await until(() => expect(view().status).toEqual({ status: "new" }));
    void chat.send("Hi");
    expect((await thread.peer.command("run.start")).params).toMatchObject({
      threadId: "t1",
      subscribe: true,
    });
  });

  it("has no id as long as its first message was not taken", async () => {
    open({ threadId: undefined as never });
    const sent = chat.send("Hi");
    await until(() => expect(thread.peer).toBeDefined());
    const first = await thread.peer.command("run.start");
    thread.peer.refuse(first, "no_such_agent");
    expect(await sent).toBe(false);
    expect(view()).toMatchObject({ threadId: undefined, status: { status: "new" } });
    const again = chat.retry();
    const second = await thread.peer.command("run.start");
    // What was refused may have begun all the same: it is to be the same thread.
    const { threadId, idempotencyKey } = first.params;
    expect(second.params).toMatchObject({ threadId, idempotencyKey });
    const answer = { runId: "r1", status: "queued", epoch: "e1", created: true } as const;
    thread.peer.answer(second, { ...answer, threadId: threadId! });
    expect(await again).toBe(true);
    expect(view().threadId).toBe(threadId);
    expect(chat.threadId).toBe(threadId);
    expect(views.filter(({ threadId, status }) => threadId !== undefined && status.status === "new")).toEqual(
      [],
    );
  });

  it("learns that the thread of its id began, or began anew, and knows nothing of the one before", async () => {
    thread.exists = false;
    open();
    await until(() => expect(view().status).toEqual({ status: "new" }));
    thread.save([human("h1", "Hi")]);
    thread.begin();
    await isIdle();
    expect(shown()).toEqual(["human:Hi:done"]);
    await until(() => expect(thread.peer.received.at(-1)?.method).not.toBe("thread.watch"));
    thread.delete();
    await until(() => expect(view().status).toEqual({ status: "deleted" }));
    expect(shown()).toEqual([]);
    await until(() => expect(thread.peer.received.at(-1)?.params).toMatchObject({ threadId: "t1" }));
    thread.save([human("h2", "Again")]);
    thread.begin();
    await isIdle();
    expect(shown()).toEqual(["human:Again:done"]);
    expect(views.map(({ status }) => status.status)).not.toContain("unavailable");
  });

  it("asks again where the thread began while its watch was being refused", async () => {
    thread.exists = false;
    open();
    await until(() => expect(view().status).toEqual({ status: "new" }));
    await connection.call("thread.watch", {});
    thread.answers["thread.watch"] = false;
    thread.tellOwner({ event: "metadata", thread: thread.record });
    const asked = await thread.peer.command("thread.watch");
    thread.answers["thread.watch"] = true;
    thread.save([human("h1", "Hi")]);
    thread.begin();
    thread.peer.refuse(asked, "no_such_thread");
    await isIdle();
    expect(shown()).toEqual(["human:Hi:done"]);
  });

  it("keeps a turn that has begun when the watch of before is refused", async () => {
    thread.exists = false;
    thread.answers["thread.watch"] = false;
    open();
    await until(() => expect(thread.peer).toBeDefined());
    const watch = await thread.peer.command("thread.watch");
    const sent = chat.send("Hi");
    const command = await thread.peer.command("run.start");
    thread.answers["thread.watch"] = true;
    thread.exists = true;
    thread.peer.answer(command as never, {
      runId: "r1",
      threadId: "t1",
      status: "queued",
      epoch: "e1",
      created: true,
    });
    expect(await sent).toBe(true);
    thread.peer.refuse(watch, "no_such_thread");
    const { messages: question } = command.params.input as { messages: FlatMessage[] };
    thread.run("r1", "queued", { input: command.params.input as never });
    await until(() => expect(view().thread?.active).toEqual(["r1"]));
    answer("r1", [], question, "a1", "Hello");
    await isIdle();
    expect(shown()).toEqual(["human:Hi:done", "ai:Hello:done"]);
    expect(views.slice(1).every(({ messages }) => messages.length > 0)).toBe(true);
  });

  it("knows its own run, whether the watch or the answer tells of it first", async () => {
    open();
    await isIdle();
    void chat.send("one");
    const command = await thread.peer.command("run.start");
    thread.run("r1", "queued", { input: command.params.input as never });
    await until(() => expect(view().status).toEqual({ status: "queued", runId: "r1" }));
    thread.peer.answer(command, {
      runId: "r1",
      threadId: "t1",
      status: "queued",
      epoch: "e1",
      created: true,
    });
    const { messages: question } = command.params.input as { messages: FlatMessage[] };
    answer("r1", [], question, "a1", "two");
    await isIdle();
    expect(shown()).toEqual(["human:one:done", "ai:two:done"]);
    // An input without messages, of a run that has ended before its start is answered.
    const sent = chat.send({ topic: "sea" });
    const other = await thread.peer.command("run.start");
    expect(other.params.input).toEqual({ topic: "sea" });
    thread.run("r2", "queued", { input: { topic: "sea" } });
    thread.run("r2", "completed");
    await until(() => expect(view().status).toEqual({ status: "sending" }));
    // What was told of it is over and read: the answer alone must not bring it back.
    const before = thread.gets.length;
    thread.tell({ event: "head", thread: thread.record });
    await until(() => expect(thread.gets.length).toBeGreaterThan(before));
    await connection.call("thread.get", { threadId: "t1" });
    thread.peer.answer(other, { runId: "r2", threadId: "t1", status: "queued", epoch: "e1", created: true });
    expect(await sent).toBe(true);
    await isIdle();
  });

  it("stops, keeps what is asked for, and shows what the thread has then", async () => {
    open();
    await isIdle();
    void chat.send("Tell");
    const { question } = await begin("r1");
    thread.started("r1", question);
    thread.parts("r1", parts.token("Once ", "a1"));
    await until(() => expect(shown().at(-1)).toBe("ai:Once :streaming"));
    const stopped = chat.stop({ keep: "thread" });
    expect(view().status).toEqual({ status: "stopping", runId: "r1" });
    const command = await thread.peer.command("run.cancel");
    expect(command.params).toEqual({ runId: "r1", keep: "thread" });
    thread.save([...question, ai("a1", "Once ", { additional_kwargs: { cancelled: true } })]);
    thread.parts("r1", lifecycle({ event: "cancelled", keep: "thread" }));
    thread.peer.answer(command, { runId: "r1", status: "cancelled", offset: 3, checkpoint: null } as never);
    expect(await stopped).toBe(true);
    thread.run("r1", "cancelled");
    await isIdle();
    expect(shown()).toEqual(["human:Tell:done", "ai:Once :cancelled"]);
  });

  it("stops a run whose start is not answered yet", async () => {
    open();
    await isIdle();
    void chat.send("Tell");
    void chat.stop({ keep: "discard" });
    expect(view().status).toMatchObject({ status: "stopping" });
    await begin("r1");
    expect((await thread.peer.command("run.cancel")).params).toEqual({ runId: "r1", keep: "discard" });
  });

  it("shows a queue, and takes runs out of it", async () => {
    open();
    await isIdle();
    void chat.send("one");
    thread.started("r1", (await begin("r1")).question);
    void chat.send("two");
    const { question } = await begin("r2");
    await until(() => expect(view().queue).toEqual([{ runId: "r2", messages: question }]));
    expect(shown()).toEqual(["human:one:done", "human:two:sending"]);
    void chat.unqueue("r2");
    const command = await thread.peer.command("run.cancel");
    expect(command.params).toEqual({ runId: "r2", keep: "discard" });
    thread.parts("r2", lifecycle({ event: "cancelled", keep: "discard" }));
    thread.run("r2", "cancelled");
    await until(() => expect(shown()).toEqual(["human:one:done"]));
    expect(view().queue).toEqual([]);
  });

  it("shows what was taken out of the queue nowhere else", async () => {
    open();
    await isIdle();
    void chat.send("one");
    thread.started("r1", (await begin("r1")).question);
    await until(() => expect(view().status).toEqual({ status: "running", runId: "r1" }));
    void chat.send("two");
    await begin("r2");
    await until(() => expect(view().queue).toHaveLength(1));
    thread.answers["thread.get"] = false;
    thread.run("r2", "cancelled");
    await until(() => expect(view().queue).toHaveLength(0));
    expect(shown()[0]).toBe("human:one:done");
  });

  it("waits for a person, and takes the answer", async () => {
    thread.save([human("h1", "Buy")], { interrupts: [{ id: "i1", value: "really?" }] });
    thread.status = "interrupted";
    open();
    await until(() => expect(view().status).toEqual({ status: "interrupted" }));
    expect(view().interrupts).toEqual([{ id: "i1", value: "really?" }]);
    void chat.answer("yes");
    const { params } = await begin("r1");
    expect(params.command).toEqual({ resume: "yes" });
    expect(view().interrupts).toEqual([]);
    thread.started("r1");
    thread.save([human("h1", "Buy")], {
      interrupts: [
        { id: "i2", value: 1 },
        { id: "i3", value: 2 },
      ],
    });
    const asked = {
      event: "interrupted" as const,
      interrupts: [
        { id: "i2", value: 1 },
        { id: "i3", value: 2 },
      ],
    };
    thread.parts("r1", lifecycle(asked));
    await until(() => expect(view().interrupts).toHaveLength(2));
    expect(view().status).toEqual({ status: "interrupted" });
    void chat.answer("no", "i3");
    expect((await begin("r2")).params.command).toEqual({ resume: { i3: "no" } });
  });

  it("shows a failed turn, also after a reload, and tries it again", async () => {
    open();
    await isIdle();
    void chat.send("Tell");
    const { question } = await begin("r1");
    thread.started("r1", question);
    thread.parts("r1", parts.token("Once ", "a1"));
    const kept = [...question, ai("a1", "Once ", { additional_kwargs: { incomplete: true } })];
    const checkpointId = thread.save(kept, { metadata: { partial: "failed" }, isAside: true });
    const error = { name: "PublicError", message: "no more ink", code: "no_ink" };
    thread.status = "failed";
    thread.parts("r1", lifecycle({ event: "failed", error }));
    thread.run("r1", "failed", { error });
    const status = {
      status: "failed",
      error: { action: "run", code: "no_ink", message: "no more ink", retryable: true },
    };
    await until(() => expect(view().status).toEqual(status));
    await until(() => expect(thread.gets.length).toBeGreaterThan(1));
    expect(shown()).toEqual(["human:Tell:failed", "ai:Once :failed"]);
    chat.close();

    await until(() => expect(thread.peer.received.at(-1)?.method).toBe("thread.unwatch"));
    open();
    const command = await thread.peer.command("run.list");
    expect(command.params).toEqual({ threadId: "t1", limit: 1 });
    const checkpoint = { threadId: "t1", checkpointId };
    const record = {
      runId: "r1",
      threadId: "t1",
      agent: "chat",
      status: "failed",
      error,
      checkpoint,
      input: { messages: question },
    };
    thread.peer.answer(command, { runs: [record] } as never);
    await until(() => expect(view().status).toEqual(status));
    expect(shown()).toEqual(["human:Tell:done", "ai:Once :failed"]);
    void chat.retry();
    expect(shown()).toEqual(["human:Tell:sending"]);
    expect((await begin("r2")).params.input).toEqual({ messages: question });
  });

  it("shows a failed turn whose checkpoints are gone on top of what there is", async () => {
    thread.save([human("h1", "Hi")]);
    thread.status = "failed";
    open();
    await until(() => expect(thread.peer).toBeDefined());
    const list = await thread.peer.command("run.list");
    thread.answers["thread.get"] = false;
    const record = {
      ...{ runId: "r1", threadId: "t1", agent: "chat", status: "failed", from: "gone" },
      input: { messages: [human("h2", "And?")] },
      checkpoint: { threadId: "t1", checkpointId: "gone too" },
    };
    thread.peer.answer(list, { runs: [record] } as never);
    for (const checkpointId of ["gone", "gone too"]) {
      const get = await thread.peer.command("thread.get");
      expect(get.params.checkpointId).toBe(checkpointId);
      thread.peer.refuse(get, "no_such_checkpoint");
    }
    await until(() => expect(view().status).toMatchObject({ status: "failed" }));
    expect(shown()).toEqual(["human:Hi:done", "human:And?:failed"]);
  });

  it("says that the thread was deleted, and forgets it", async () => {
    thread.save([human("h1", "Hi")]);
    open();
    await isIdle();
    thread.delete();
    await until(() => expect(view().status).toEqual({ status: "deleted" }));
    expect(view().messages).toEqual([]);
  });

  it("knows no branches of a thread that was deleted, when it begins anew", async () => {
    const h1 = human("h1", "Hi");
    thread.save([h1, ai("a1", "Hello")]);
    open();
    await isIdle();
    await until(() =>
      expect(thread.peer.received.some(({ method }) => method === "thread.history")).toBe(true),
    );
    thread.delete();
    await until(() => expect(view().status).toEqual({ status: "deleted" }));
    void chat.send("Again");
    expect(shown()).toEqual(["human:Again:sending"]);
    expect(view().messages[0]!.branches).toBeUndefined();
  });

  it.each([
    ["idle", "idle"],
    ["busy", "loading"],
    ["failed", "loading"],
    ["interrupted", "interrupted"],
  ] as const)("begins as it goes on, with what was read of a thread that is %s", async (status, first) => {
    thread.save([human("h1", "Hi")]);
    if (status !== "busy") thread.status = status;
    open();
    await until(() => expect(view().messages).toHaveLength(1));
    if (status === "busy") thread.run("r1", "running", { input: asks(human("h2", "And?")) });
    const initial = (await connection.call("thread.get", { threadId: "t1" })) as NonNullable<
      ConversationOptions["initial"]
    >;
    expect(initial.thread?.status).toBe(status);
    chat.close();
    await until(() => expect(thread.peer.received.map(({ method }) => method)).toContain("thread.unwatch"));
    expect(initialView({ threadId: "t1", initial }).status).toEqual({ status: first });
    views = [];
    open({ initial });
    expect(view().status).toEqual({ status: first });
    if (status === "failed") {
      const answer = async () => {
        const list = await thread.peer.command("run.list");
        const record = { runId: "r1", threadId: "t1", agent: "chat", status };
        thread.peer.answer(list, { runs: [record] } as never);
      };
      // The first store has asked as well.
      await answer();
      await answer();
    }
    const last = { idle: "idle", busy: "running", failed: "failed", interrupted: "interrupted" }[status];
    await until(() => expect(view().status.status).toBe(last));
    expect(new Set([first, ...views.map(({ status }) => status.status)])).toEqual(new Set([first, last]));
  });

  it("is not idle while the thread works, before it is known at what", async () => {
    thread.answers["thread.watch"] = false;
    thread.save([human("h1", "Hi")]);
    thread.status = "busy";
    open();
    await until(() => expect(thread.peer).toBeDefined());
    const command = await thread.peer.command("thread.watch");
    const runs: ThreadRun[] = [{ runId: "r1", agent: "chat", status: "running" }];
    await until(() => expect(shown()).toEqual(["human:Hi:done"]));
    expect(view().status).toEqual({ status: "loading" });
    thread.peer.answer(command, {
      threadId: "t1",
      thread: thread.record,
      runs,
      first: 1,
      head: 0,
      epoch: "w1",
    });
    await until(() => expect(view().status).toEqual({ status: "running", runId: "r1" }));
    expect(views.map(({ status }) => status.status)).not.toContain("idle");
  });

  it("says that nothing more comes, when the connection is closed for good", async () => {
    open();
    await isIdle();
    thread.run("r1", "running", { input: asks(human("h1", "Hi")) });
    await until(() => expect(view().status).toMatchObject({ status: "running" }));
    connection.close();
    await until(() => expect(view().connection.status).toBe("closed"));
    expect(view().status).toMatchObject({ status: "unavailable", error: { code: "connection_closed" } });
    expect(shown()).toHaveLength(1);
  });

  it("shows the last messages first, and earlier ones when asked", async () => {
    const all = Array.from({ length: 120 }, (_, i) => human(`h${i}`, `${i}`));
    thread.save(all);
    open();
    await isIdle();
    expect(view().messages).toHaveLength(50);
    expect(view()).toMatchObject({ hasEarlier: true });
    const [first] = view().messages;
    chat.loadEarlier();
    expect(view().messages).toHaveLength(100);
    expect(view().messages[50]).toBe(first);
    chat.loadEarlier();
    expect(view().messages.map(({ id }) => id)).toEqual(all.map(({ id }) => id));
    expect(view().hasEarlier).toBe(false);
  });

  it("reads the head where the thread moved without a run, and a state that nobody streamed", async () => {
    open();
    await isIdle();
    const messages = [human("h1", "by hand")];
    thread.save(messages, { values: { messages: messages as never, title: "T" } });
    thread.tell({ event: "head", thread: thread.record });
    await until(() => expect(shown()).toEqual(["human:by hand:done"]));
    expect(view().state).toEqual({ title: "T" });
  });

  it("keeps a question in its place that was stopped in the queue, until the thread has it", async () => {
    open();
    await isIdle();
    void chat.send("one");
    const one = (await begin("r1")).question;
    thread.started("r1", one);
    void chat.send("two");
    const two = (await begin("r2")).question;
    void chat.send("three");
    const three = (await begin("r3")).question;
    const all = ["human:one:done", "human:two:done", "human:three:sending"];
    await until(() => expect(view().queue).toHaveLength(2));
    views = [];
    thread.inLine.add("r2");
    thread.run("r2", "cancelled");
    thread.parts("r2", lifecycle({ event: "cancelled", keep: "thread" }));
    await until(() => expect(shown()).toEqual(all));
    thread.save([...one]);
    thread.parts("r1", completed());
    thread.run("r1", "completed");
    await until(() => expect(view().status).toEqual({ status: "queued", runId: "r3" }));
    thread.inLine.clear();
    thread.save([...one, ...two]);
    thread.tell({ event: "head", thread: thread.record });
    thread.started("r3", three);
    thread.save([...one, ...two, ...three]);
    thread.parts("r3", completed());
    thread.run("r3", "completed");
    await isIdle();
    expect(shown()).toEqual([...all.slice(0, 2), "human:three:done"]);
    const texts = views.map(({ messages }) => messages.map(({ text }) => text).join());
    expect(new Set(texts)).toEqual(new Set(["one,two,three"]));
  });

  it("puts turns in the order of the thread's line, whoever is heard of first", async () => {
    open();
    await isIdle();
    thread.run("r2", "queued", { ordinal: 2, input: asks(human("h2", "two")) });
    await until(() => expect(shown()).toEqual(["human:two:sending"]));
    thread.run("r1", "queued", { ordinal: 1, input: asks(human("h1", "one")) });
    await until(() => expect(shown()).toEqual(["human:one:sending", "human:two:sending"]));
  });

  it("does not show a run as queued again that has begun", async () => {
    open();
    await isIdle();
    thread.run("r1", "running", { input: asks(human("h1", "?")) });
    await until(() => expect(view().status).toMatchObject({ status: "running" }));
    thread.run("r1", "queued");
    thread.tell({ event: "metadata", thread: { ...thread.record, metadata: { title: "T" } } });
    await until(() => expect(view().thread?.metadata).toEqual({ title: "T" }));
    expect(view().status).toMatchObject({ status: "running" });
    expect(views.filter(({ status }) => status.status === "queued")).toEqual([]);
  });

  it("loses nothing of a run that the watch told of before its start was answered", async () => {
    open();
    await isIdle();
    void chat.send({ topic: "sea" });
    const command = await thread.peer.command("run.start");
    thread.run("r1", "running", { ordinal: 1, input: { topic: "sea" } });
    thread.parts("r1", parts.started(), parts.custom("looking"));
    await until(() => expect(view().status).toMatchObject({ status: "running" }));
    const answer = { runId: "r1", threadId: "t1", status: "queued", epoch: "e1", created: true } as const;
    thread.peer.answer(command, answer);
    thread.parts("r1", parts.custom("found"));
    await until(() => expect(view().custom).toEqual(["looking", "found"]));
  });

  it("sends again under the key of before: what was refused may have begun all the same", async () => {
    open();
    await isIdle();
    void chat.send("one");
    const first = await thread.peer.command("run.start");
    thread.peer.refuse(first, "unavailable");
    await until(() => expect(view().error).toBeDefined());
    void chat.retry();
    const second = await thread.peer.command("run.start");
    expect(second.params.idempotencyKey).toBe(first.params.idempotencyKey);
    thread.peer.refuse(second, "unavailable");
    await until(() => expect(view().error).toBeDefined());
    void chat.send("one");
    expect((await thread.peer.command("run.start")).params.idempotencyKey).not.toBe(
      first.params.idempotencyKey,
    );
  });

  it("is the same snapshot as long as there is nothing new to see", async () => {
    thread.save([human("h1", "Hi")], { values: { messages: [human("h1", "Hi")] as never, title: "T" } });
    open();
    await isIdle();
    await until(() => expect(thread.peer.received.map(({ method }) => method)).toContain("thread.history"));
    const before = view();
    views = [];
    const gets = thread.gets.length;
    thread.tell({ event: "head", thread: before.thread! });
    await until(() => expect(thread.gets.length).toBeGreaterThan(gets));
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { thread: record, ...rest } = view();
    for (const [key, value] of Object.entries(rest)) expect(value).toBe(before[key as keyof typeof before]);
    expect(views.every((each, i) => each !== (views[i - 1] ?? before))).toBe(true);
    expect(views.length).toBeLessThanOrEqual(1);
  });

  it("knows of a thread that was deleted while nobody could be told", async () => {
    thread.save([human("h1", "Hi")]);
    open();
    await isIdle();
    thread.exists = false;
    thread.peer.drop();
    await until(() => expect(view().status).toEqual({ status: "deleted" }));
    expect(view().messages).toEqual([]);
  });

  it("follows nothing when it is closed before its start is answered", async () => {
    thread.exists = false;
    open();
    await until(() => expect(view().status).toEqual({ status: "new" }));
    void chat.send("Hi");
    const command = await thread.peer.command("run.start");
    chat.close();
    const answer = { runId: "r1", threadId: "t1", status: "queued", epoch: "e1", created: true } as const;
    thread.peer.answer(command, answer);
    expect((await thread.peer.command("run.unsubscribe")).params).toEqual({ runId: "r1" });
  });

  it("shows others' runs in their place: once it is read what was before them", async () => {
    thread.save([human("h1", "Hi"), ai("a1", "Hello")]);
    thread.run = thread.run.bind(thread);
    thread.answers["thread.get"] = false;
    open();
    await until(() => expect(thread.peer).toBeDefined());
    const get = await thread.peer.command("thread.get");
    await until(() =>
      expect(thread.peer.received.some(({ method }) => method === "thread.watch")).toBe(true),
    );
    thread.run("r1", "running", { input: asks(human("h2", "And?")) });
    const given = [human("h1", "Hi"), ai("a1", "Hello"), human("h2", "And?"), ai("a2", "Well")];
    thread.parts("r1", parts.started(), {
      type: "updates",
      ns: [],
      data: { inside: { messages: given } } as never,
    });
    await until(() => expect(view().thread?.active).toEqual(["r1"]));
    expect(shown()).toEqual([]);
    thread.get(get);
    await until(() =>
      expect(view().messages.map(({ text }) => text)).toEqual(["Hi", "Hello", "And?", "Well"]),
    );
  });

  it("goes on after a lost connection, behind what it was told", async () => {
    open();
    await isIdle();
    void chat.send("one");
    const { question } = await begin("r1");
    thread.started("r1", question);
    thread.parts("r1", parts.token("ab", "a1"));
    await until(() => expect(shown().at(-1)).toBe("ai:ab:streaming"));
    const { peer } = thread;
    peer.drop();
    await until(() => expect(thread.peer).not.toBe(peer));
    const asked = await vi.waitFor(() => {
      const found = thread.peer.received.find(({ method }) => method === "thread.watch");
      if (found === undefined) throw new Error("not yet");
      return found;
    }, 60_000);
    expect(asked.params).toEqual({
      threadId: "t1",
      after: 2,
      epoch: "w1",
      runs: { pages: true, known: { r1: { after: 2 } } },
    });
    thread.parts("r1", parts.token("cd", "a1"));
    await until(() => expect(shown().at(-1)).toBe("ai:abcd:streaming"));
    expect(thread.peer.received.map(({ method }) => method)).not.toContain("run.subscribe");
  });
});

describe("what is shown of a turn that is over", () => {
  it("stays until a state is read that was asked for after it", async () => {
    open();
    await isIdle();
    void chat.send("one");
    const { question } = await begin("r1");
    thread.started("r1", question);
    thread.parts("r1", parts.token("eins", "a1"));
    await until(() => expect(shown().at(-1)).toBe("ai:eins:streaming"));
    thread.answers["thread.get"] = false;
    thread.tell({ event: "head", thread: thread.record });
    const early = await thread.peer.command("thread.get");
    thread.parts("r1", completed());
    await until(() => expect(view().status).toEqual({ status: "idle" }));
    thread.get(early);
    const late = await thread.peer.command("thread.get");
    expect(shown()).toEqual(["human:one:done", "ai:eins:done"]);
    thread.save([...question, ai("a1", "eins, in the end")]);
    thread.get(late);
    await until(() => expect(shown()).toEqual(["human:one:done", "ai:eins, in the end:done"]));
  });

  it("is not ended by a watch's answer of before its start", async () => {
    open();
    await isIdle();
    void chat.send("one");
    const first = await thread.peer.command("run.start");
    thread.answers["thread.watch"] = false;
    const { peer } = thread;
    peer.drop();
    await until(() => expect(thread.peer).not.toBe(peer));
    const commands = [await thread.peer.take(), await thread.peer.take()];
    const watch = commands.find(({ method }) => method === "thread.watch")!;
    const start = commands.find(({ method }) => method === "run.start") as Command<"run.start">;
    expect(start.params).toEqual(first.params);
    views = [];
    const begun = { runId: "r1", threadId: "t1", status: "queued", epoch: "e1", created: true } as const;
    thread.peer.answer(start, begun);
    await until(() => expect(view().status).toEqual({ status: "queued", runId: "r1" }));
    thread.peer.answer(watch as never, {
      threadId: "t1",
      thread: thread.record,
      runs: [],
      first: 1,
      head: 0,
      epoch: "w1",
    });
    const get = await thread.peer.command("run.get");
    const record = { ...begun, agent: "chat", status: "queued" };
    thread.peer.answer(get, record as never);
    const input = start.params.input as { messages: FlatMessage[] };
    const { messages: question } = input;
    thread.run("r1", "queued", { input: input as never });
    thread.started("r1", question);
    await until(() => expect(view().status).toEqual({ status: "running", runId: "r1" }));
    expect(shown()).toEqual(["human:one:done"]);
    expect(views.every(({ messages }) => messages.length === 1)).toBe(true);
    expect(views.map(({ status }) => status.status)).not.toContain("idle");
  });

  it("goes where its end was told to nobody, after its start was answered on the next socket", async () => {
    open();
    await isIdle();
    void chat.send("one");
    await thread.peer.command("run.start");
    const { peer } = thread;
    peer.drop();
    await until(() => expect(thread.peer).not.toBe(peer));
    await until(() => expect(thread.peer.received.map(({ method }) => method)).toContain("thread.watch"));
    const start = await thread.peer.command("run.start");
    const { messages: question } = start.params.input as { messages: FlatMessage[] };
    thread.peer.answer(start, { runId: "r1", threadId: "t1", status: "queued", epoch: "e1", created: false });
    await until(() => expect(view().status).toEqual({ status: "queued", runId: "r1" }));
    thread.save([...question, ai("a1", "eins")]);
    thread.peer.event("thread.reset", { threadId: "t1", epoch: "w1", offset: 0, reason: "trimmed" });
    const get = await thread.peer.command("run.get");
    thread.peer.answer(get, { runId: "r1", threadId: "t1", agent: "chat", status: "completed" } as never);
    await isIdle();
    expect(shown()).toEqual(["human:one:done", "ai:eins:done"]);
  });

  it("goes where its end was told to nobody", async () => {
    open();
    await isIdle();
    void chat.send("one");
    const { question } = await begin("r1");
    thread.started("r1", question);
    await until(() => expect(view().status).toMatchObject({ status: "running" }));
    thread.peer.drop();
    thread.endSilently("r1", "completed");
    thread.save([...question, ai("a1", "eins")]);
    await until(() => expect(shown()).toEqual(["human:one:done", "ai:eins:done"]));
    expect(view().status).toEqual({ status: "idle" });
  });
});

describe("branches", () => {
  const h1 = human("h1", "one");
  const a1 = ai("a1", "eins");
  const h2 = human("h2", "two");
  const a2 = ai("a2", "zwei");

  beforeEach(() => {
    thread.save([h1, a1]);
    thread.save([h1, a1, h2, a2]);
  });

  it("edits a question: from right before it, on the screen at once, and keeps both", async () => {
    open();
    await isIdle();
    const edited = chat.edit(view().messages[2]!, "three");
    expect(shown()).toEqual(["human:one:done", "ai:eins:done", "human:three:sending"]);
    const { params, question } = await begin("r1");
    expect(params.checkpointId).toBe("k1");
    expect(question).toEqual([{ ...h2, id: expect.any(String), content: "three" }]);
    expect(question[0]!.id).not.toBe("h2");
    expect(await edited).toBe(true);
    thread.started("r1", question);
    thread.parts("r1", parts.token("drei", "a3"));
    await until(() => expect(shown().slice(2)).toEqual(["human:three:done", "ai:drei:streaming"]));
    // Another branch can be looked at while this one is written.
    expect(await chat.select(view().messages[2]!, 0)).toBe(true);
    expect(shown().slice(2)).toEqual(["human:two:done", "ai:zwei:done"]);
    expect(view().status).toMatchObject({ status: "running" });
    expect(view().messages[2]!.branches).toEqual({ index: 0, count: 2 });
    expect(await chat.select(view().messages[2]!, 1)).toBe(true);
    expect(shown().slice(2)).toEqual(["human:three:done", "ai:drei:streaming"]);
    thread.save([h1, a1, ...question, ai("a3", "drei")], { parentId: "k1" });
    thread.parts("r1", completed());
    thread.run("r1", "completed");
    await isIdle();
    await until(() => expect(view().messages[2]!.branches).toEqual({ index: 1, count: 2 }));
    expect(view().messages.map(({ branches }) => branches?.count)).toEqual([
      undefined,
      undefined,
      2,
      undefined,
    ]);

    expect(await chat.select(view().messages[2]!, 0)).toBe(true);
    expect(shown()).toEqual(["human:one:done", "ai:eins:done", "human:two:done", "ai:zwei:done"]);
    expect(view().messages[2]!.branches).toEqual({ index: 0, count: 2 });
    void chat.send("four");
    expect(shown().at(-1)).toBe("human:four:sending");
    expect((await begin("r2")).params.checkpointId).toBe("k2");
    expect(shown()).toHaveLength(5);
  });

  it("shows the branch of before while the other is being answered", async () => {
    open();
    await isIdle();
    void chat.edit("h2", "three");
    thread.started("r1", (await begin("r1")).question);
    thread.parts("r1", parts.token("drei", "a3"));
    await until(() => expect(shown().slice(2)).toEqual(["human:three:done", "ai:drei:streaming"]));
    expect(view().messages[2]!.branches).toEqual({ index: 1, count: 2 });
    expect(await chat.select(view().messages[2]!, 0)).toBe(true);
    expect(shown().slice(2)).toEqual(["human:two:done", "ai:zwei:done"]);
  });

  it("edits the text of a question, and leaves its pictures where they are", async () => {
    const picture = { type: "image_url", image_url: { url: "data:," } };
    const text = (text: string) => ({ type: "text", text });
    const contents = [
      [
        [picture, text("this?"), picture, text("or that?")],
        [picture, text("new"), picture],
      ],
      [[picture], [text("new"), picture]],
      [
        ["plain", picture],
        [text("new"), picture],
      ],
    ] as unknown as [FlatMessage["content"], FlatMessage["content"]][];
    for (const [i, [before, after]] of contents.entries()) {
      thread.save([{ type: "human", id: "p1", content: before }]);
      if (i === 0) open();
      else thread.tell({ event: "head", thread: thread.record });
      await until(() => expect(view().messages[0]?.content).toEqual(before));
      await isIdle();
      const edited = chat.edit("p1", "new");
      expect(view().messages[0]!.content).toEqual(after);
      const command = await thread.peer.command("run.start");
      expect(command.params.input).toMatchObject({ messages: [{ content: after }] });
      thread.peer.refuse(command, "thread_busy");
      expect(await edited).toBe(false);
    }
  });

  it("says why, where there is no message to do it with", async () => {
    thread.save([ai("a0", "Welcome")]);
    open();
    await isIdle();
    const refusals: [() => Promise<boolean>, string][] = [
      [() => chat.regenerate(), "send"],
      [() => chat.regenerate("a0"), "send"],
      [() => chat.regenerate("nobody"), "send"],
      [() => chat.edit("nobody", "new"), "send"],
      [() => chat.select("a0", 1), "select"],
    ];
    for (const [act, action] of refusals) {
      thread.tell({ event: "head", thread: thread.record });
      expect(await act()).toBe(false);
      expect(view().error).toMatchObject({ action, code: "no_such_message", retryable: false });
    }
    expect(view().messages).toHaveLength(1);
  });

  it("edits the first question: from nothing", async () => {
    open();
    await isIdle();
    void chat.edit("h1", "zero");
    expect(shown()).toEqual(["human:zero:sending"]);
    expect((await begin("r1")).params.checkpointId).toBeNull();
    expect(shown()).toHaveLength(1);
  });

  it("loses nothing where no checkpoint ends right before the question", async () => {
    const h3 = human("h3", "three");
    thread.save([h1, a1, h2, a2, h3, ai("a3", "drei"), human("h4", "four"), ai("a4", "vier")]);
    open();
    await isIdle();
    void chat.edit("h4", "quatre");
    const { params, question } = await begin("r1");
    expect(params.checkpointId).toBe("k2");
    expect(question).toEqual([h3, ai("a3", "drei"), { ...human(expect.any(String), "quatre") }]);
    const screen = [
      "human:one:done",
      "ai:eins:done",
      "human:two:done",
      "ai:zwei:done",
      "human:three:done",
      "ai:drei:done",
    ];
    expect(shown()).toEqual([...screen, "human:quatre:sending"]);
    thread.started("r1", question);
    await until(() => expect(shown()).toEqual([...screen, "human:quatre:done"]));
  });

  it("tries a branch that failed again where it began, also after a reload", async () => {
    open();
    await isIdle();
    void chat.edit("h2", "deux");
    const { question } = await begin("r1");
    thread.started("r1", question);
    thread.status = "failed";
    const error = { name: "Error", message: "the agent failed" };
    thread.parts("r1", lifecycle({ event: "failed", error }));
    thread.run("r1", "failed", { error });
    const failed = ["human:one:done", "ai:eins:done", "human:deux:failed"];
    await until(() => expect(view().status).toMatchObject({ status: "failed" }));
    expect(shown()).toEqual(failed);
    chat.close();

    await until(() => expect(thread.peer.received.at(-1)?.method).toBe("thread.unwatch"));
    open();
    const record = { runId: "r1", threadId: "t1", agent: "chat", status: "failed", error, from: "k1" };
    const input = { messages: question };
    thread.peer.answer(await thread.peer.command("run.list"), { runs: [{ ...record, input }] } as never);
    await until(() => expect(view().status).toMatchObject({ status: "failed" }));
    expect(shown()).toEqual(failed);
    void chat.retry();
    expect(shown()).toEqual(["human:one:done", "ai:eins:done", "human:deux:sending"]);
    expect((await begin("r2")).params).toMatchObject({ checkpointId: "k1", input });
  });

  it("asks for another answer to the same question", async () => {
    open();
    await isIdle();
    void chat.regenerate();
    expect(shown()).toEqual(["human:one:done", "ai:eins:done", "human:two:sending"]);
    const { params, question } = await begin("r1");
    expect(params).toMatchObject({ checkpointId: "k1", input: { messages: [h2] } });
    thread.started("r1", question);
    thread.save([h1, a1, h2, ai("a3", "deux")], { parentId: "k1" });
    thread.parts("r1", completed());
    await isIdle();
    await until(() => expect(view().messages[3]!.branches).toEqual({ index: 1, count: 2 }));
    expect(view().messages[2]!.branches).toBeUndefined();
  });

  it("passes over checkpoints that hold an input, and over what lost attempts left", async () => {
    thread.save([h1, a1, h2, a2], { metadata: { source: "input" } });
    thread.save([h1, a1, h2, a2, human("h3", "x"), ai("a4", "cut")], {
      parentId: "k3",
      metadata: { partial: "taken-over" },
      isAside: true,
    });
    thread.save([h1, a1, h2, a2, human("h3", "x"), ai("a5", "whole")], { parentId: "k3" });
    open();
    await isIdle();
    await until(() =>
      expect(thread.peer.received.some(({ method }) => method === "thread.history")).toBe(true),
    );
    void chat.regenerate();
    expect((await begin("r1")).params.checkpointId).toBe("k2");
    expect(view().messages.every(({ branches }) => branches === undefined)).toBe(true);
  });

  it("interrupts a run that it goes behind", async () => {
    open();
    await isIdle();
    void chat.send("three");
    thread.started("r1", (await begin("r1")).question);
    await until(() => expect(view().status).toMatchObject({ status: "running" }));
    void chat.edit("h2", "deux");
    expect((await begin("r2")).params).toMatchObject({ checkpointId: "k1", multitaskStrategy: "interrupt" });
  });

  it("edits a queued question: on top of what its checkpoint has, from the first moment on", async () => {
    open();
    await isIdle();
    void chat.send("three");
    thread.started("r1", (await begin("r1")).question);
    thread.parts("r1", parts.token("dr", "a3"));
    await until(() => expect(shown().at(-1)).toBe("ai:dr:streaming"));
    void chat.send("four");
    const { question } = await begin("r2");
    await until(() => expect(view().queue).toHaveLength(1));
    void chat.edit(question[0]!.id!, "five");
    const screen = ["human:one:done", "ai:eins:done", "human:two:done", "ai:zwei:done", "human:five:sending"];
    expect(shown()).toEqual(screen);
    const { params } = await begin("r3");
    expect(params).toMatchObject({ checkpointId: "k2", multitaskStrategy: "interrupt" });
    expect(params.input).toMatchObject({ messages: [{ content: "five" }] });
    expect(shown()).toEqual(screen);
  });

  it("shows what somebody else branched off, when it begins", async () => {
    open();
    await isIdle();
    thread.run("r1", "queued", { from: "k1", input: asks(human("h9", "else")) });
    thread.started("r1", [human("h9", "else")]);
    await until(() => expect(shown()).toEqual(["human:one:done", "ai:eins:done", "human:else:done"]));
  });
});

describe("a message", () => {
  it("has tool calls with their states and results, reasoning, usage, node and custom data", async () => {
    open();
    await isIdle();
    void chat.send("weather?");
    const { question } = await begin("r1");
    thread.started("r1", question);
    const chunk = (fields: object): Part => ({
      type: "messages",
      ns: [],
      data: [{ type: "AIMessageChunk", id: "a1", content: "", ...fields }, { langgraph_node: "model" }],
    });
    thread.parts("r1", chunk({ content: [{ type: "thinking", thinking: "hm", index: 0 }] }));
    thread.parts("r1", chunk({ tool_call_chunks: [{ index: 0, id: "c1", name: "sky", args: '{"at":' }] }));
    thread.parts("r1", parts.custom("looking"));
    const last = () => view().messages.find(({ type }) => type === "ai")!;
    await until(() => expect(view().custom).toEqual(["looking"]));
    expect(last()).toMatchObject({
      reasoning: "hm",
      node: "model",
      runId: "r1",
      custom: ["looking"],
      status: "streaming",
    });
    expect(last().toolCalls).toMatchObject([
      { id: "c1", name: "sky", argsText: '{"at":', args: undefined, status: "streaming" },
    ]);
    const whole = ai("a1", "", {
      tool_calls: [{ id: "c1", name: "sky", args: { at: "Rome" } }],
      usage_metadata: { total_tokens: 9 },
    });
    thread.parts("r1", { type: "updates", ns: [], data: { model: { messages: [whole] } } as never });
    await until(() => expect(last().toolCalls).toMatchObject([{ args: { at: "Rome" }, status: "running" }]));
    expect(last().usage).toEqual({ total_tokens: 9 });
    const result: FlatMessage = { type: "tool", id: "x1", tool_call_id: "c1", content: "blue" };
    thread.parts("r1", { type: "updates", ns: [], data: { tools: { messages: [result] } } as never });
    await until(() => expect(last().toolCalls).toMatchObject([{ status: "done", result: "blue" }]));
    thread.save([...question, whole, result]);
    thread.parts("r1", completed());
    await isIdle();
    expect(last()).toMatchObject({ node: "model", runId: "r1", custom: ["looking"] });
  });

  it("stays cut off when a later run tells of it again", async () => {
    const old = [human("h1", "Tell"), ai("a1", "Once ", { additional_kwargs: { cancelled: true } })];
    thread.save(old);
    open();
    await isIdle();
    expect(shown()).toEqual(["human:Tell:done", "ai:Once :cancelled"]);
    thread.run("r1", "running", { input: asks(human("h2", "On")) });
    const given = [...old, human("h2", "On"), ai("a2", "and")];
    thread.parts("r1", parts.started(), {
      type: "updates",
      ns: [],
      data: { inside: { messages: given } } as never,
    });
    await until(() =>
      expect(shown()).toEqual(["human:Tell:done", "ai:Once :cancelled", "human:On:done", "ai:and:done"]),
    );
  });

  it("is the same object while another is streamed, among 500", async () => {
    const all = Array.from({ length: 500 }, (_, i) => (i % 2 ? ai(`m${i}`, `${i}`) : human(`m${i}`, `${i}`)));
    thread.save(all);
    const frames: (() => void)[] = [];
    open({ pageSize: 1000, schedule: (draw) => void frames.push(draw) });
    await until(() => {
      for (const draw of frames.splice(0)) draw();
      expect(view().status).toEqual({ status: "idle" });
    });
    void chat.send("go");
    thread.started("r1", (await begin("r1")).question);
    const draw = () => {
      for (const each of frames.splice(0)) each();
    };
    await until(() => {
      draw();
      expect(view().status).toMatchObject({ status: "running" });
    });
    const before = view().messages;
    let costMs = 0;
    for (let i = 0; i < 200; i++) {
      const text = "word ".repeat(i + 1);
      thread.parts("r1", parts.token("word ", "a1"));
      await until(() => expect(frames.length).toBeGreaterThan(0));
      const from = performance.now();
      draw();
      costMs += performance.now() - from;
      expect(view().messages.at(-1)!.text).toBe(text);
    }
    console.log(`a frame with 501 messages: ${(costMs / 200).toFixed(3)} ms`);
    expect(
      view()
        .messages.slice(0, 501)
        .every((each, i) => each === before[i]),
    ).toBe(true);
  });
});
