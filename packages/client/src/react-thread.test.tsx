// @vitest-environment happy-dom
/** The hooks of conversations, by React itself: StrictMode, hydration, and what is rendered again. */
import { type FlatMessage, lifecycle } from "@throughline/protocol";
import { memo, act as reactAct, StrictMode, useState } from "react";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import type { Message, RunParams } from "./conversation/index.ts";
import { type Connection, connect, type ThreadHead } from "./index.ts";
import { type ThreadHook, useThread, useThreads } from "./react.ts";
import { parts, ScriptedGateway, ScriptedThread } from "./testing/index.ts";

/** What comes from the gateway is rendered when React likes; what a test does, before it goes on. */
async function act(does: () => unknown): Promise<void> {
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  await reactAct(async () => void does());
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: false });
}

let gateway: ScriptedGateway;
let thread: ScriptedThread;
let connection: Connection;
let root: Root | undefined;
let container: HTMLElement;
let hook: ThreadHook;
/** How often each message was rendered, by its id. */
let renders: Record<string, number>;
/** What was on the screen after each commit. */
let screens: string[];

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  thread = new ScriptedThread();
  thread.serve(gateway);
  connection = connect(gateway.url, { WebSocket });
  container = document.body.appendChild(document.createElement("div"));
  renders = {};
  screens = [];
});

afterEach(async () => {
  await act(async () => root?.unmount());
  root = undefined;
  connection.close();
  await gateway.close();
  container.remove();
});

const Line = memo(({ message }: { message: Message }) => {
  renders[message.id] = (renders[message.id] ?? 0) + 1;
  return <p>{`${message.type}:${message.text}`}</p>;
});

type Given = { threadId?: string; initial?: ThreadHead; agent?: string; run?: RunParams };

function Chat({ threadId, initial, agent = "chat", run }: Given) {
  hook = useThread(connection, {
    agent,
    ...(run !== undefined && { run }),
    ...(threadId !== undefined && { threadId }),
    ...(initial !== undefined && { initial }),
  });
  return (
    <main ref={() => void screens.push(container.textContent ?? "")} data-status={hook.status.status}>
      {hook.messages.map((message) => (
        <Line key={message.id} message={message} />
      ))}
    </main>
  );
}

async function until(check: () => void): Promise<void> {
  await vi.waitFor(check, { timeout: 60_000, interval: 2 });
}

async function show(node: React.ReactNode): Promise<void> {
  await act(async () => {
    root ??= createRoot(container);
    root.render(node);
  });
}

const human = (id: string, content: string): FlatMessage => ({ type: "human", id, content });
const lines = () => [...container.querySelectorAll("p")].map(({ textContent }) => textContent);
const asked = (method: string) => thread.peer.received.filter((each) => each.method === method);
const idle = () => until(() => expect(hook.status.status).toBe("idle"));

describe("useThread", () => {
  it("shows a conversation in StrictMode: one watch, one start, and renders again only what has changed", async () => {
    thread.save([human("h1", "Hi"), { type: "ai", id: "a1", content: "Hello" }]);
    await show(
      <StrictMode>
        <Chat threadId="t1" />
      </StrictMode>,
    );
    await idle();
    expect(lines()).toEqual(["human:Hi", "ai:Hello"]);
    await act(async () => void hook.send("And?"));
    expect(lines()).toEqual(["human:Hi", "ai:Hello", "human:And?"]);
    const command = await thread.peer.command("run.start");
    thread.peer.answer(command as never, {
      runId: "r1",
      threadId: "t1",
      status: "queued",
      epoch: "e",
      created: true,
    });
    thread.run("r1", "queued", { input: command.params.input as never });
    thread.started("r1", (command.params.input as { messages: FlatMessage[] }).messages);
    await until(() => expect(hook.status.status).toBe("running"));
    const before = { ...renders };
    for (const word of ["so ", "it ", "goes"]) {
      thread.parts("r1", parts.token(word, "a2"));
      await until(() => expect(lines().at(-1)?.endsWith(word)).toBe(true));
    }
    expect(lines().at(-1)).toBe("ai:so it goes");
    expect(renders).toMatchObject(before);
    expect(asked("thread.watch")).toHaveLength(1);
    expect(asked("run.start")).toHaveLength(1);
  });

  it("is rendered on a server, and hydrated without a flash", async () => {
    const messages = [human("h1", "Hi"), { type: "ai", id: "a1", content: "Hello" }];
    thread.save(messages);
    const initial = {
      threadId: "t1",
      checkpointId: "k1",
      parentId: null,
      values: { messages },
      next: [],
      interrupts: [],
      metadata: {},
      createdAt: "",
    } as unknown as ThreadHead;
    const html = renderToString(<Chat threadId="t1" initial={initial} />);
    expect(html).toContain("ai:Hello");
    container.innerHTML = html;
    const errors: unknown[] = [];
    await act(async () => {
      root = hydrateRoot(container, <Chat threadId="t1" initial={initial} />, {
        onRecoverableError: (error) => errors.push(error),
      });
    });
    await until(() => expect(asked("thread.get")).not.toHaveLength(0));
    await idle();
    expect(errors).toEqual([]);
    expect(new Set(screens)).toEqual(new Set(["human:Hiai:Hello"]));
    // What was hydrated is what the store has: nothing was rendered anew for it.
    expect(lines()).toEqual(["human:Hi", "ai:Hello"]);
  });

  it("keeps a new conversation when its id becomes the component's, and begins another when that goes", async () => {
    let setId!: (id: string | undefined) => void;
    function Page() {
      const [id, set] = useState<string>();
      setId = set;
      return <Chat {...(id !== undefined && { threadId: id })} />;
    }
    await show(<Page />);
    expect(hook.status).toEqual({ status: "new" });
    await act(async () => void hook.send("Hi"));
    await until(() => expect(thread.peer).toBeDefined());
    const command = await thread.peer.command("run.start");
    const threadId = String(command.params.threadId);
    Object.assign(thread, { threadId });
    thread.peer.answer(command as never, {
      runId: "r1",
      threadId,
      status: "queued",
      epoch: "e",
      created: true,
    });
    await until(() => expect(asked("thread.watch")).toHaveLength(1));
    screens = [];
    await act(async () => setId(threadId));
    expect(lines()).toEqual(["human:Hi"]);
    expect(asked("thread.watch")).toHaveLength(1);
    expect(screens.every((screen) => screen === "human:Hi")).toBe(true);
    await act(async () => setId(undefined));
    expect(lines()).toEqual([]);
    expect(hook.status).toEqual({ status: "new" });
  });

  it("sends to the agent, and with the params, that the component has now; what is shown stays", async () => {
    thread.save([human("h1", "Hi")]);
    await show(<Chat threadId="t1" />);
    await idle();
    screens = [];
    const config = { configurable: { model: "large" } };
    await show(<Chat threadId="t1" agent="expert" run={{ config }} />);
    expect(new Set(screens)).toEqual(new Set(["human:Hi"]));
    await act(async () => void hook.send("And?"));
    const { params } = await thread.peer.command("run.start");
    expect(params).toMatchObject({ agent: "expert", config });
    expect(asked("thread.watch")).toHaveLength(1);
  });

  it("never shows one thread's messages under another's id", async () => {
    thread.save([human("h1", "of t1")]);
    await show(<Chat threadId="t1" />);
    await idle();
    screens = [];
    thread.answers["thread.get"] = false;
    await show(<Chat threadId="t2" />);
    expect(lines()).toEqual([]);
    expect(hook.status).toEqual({ status: "loading" });
    expect(screens).not.toContain("human:of t1");
    await until(() => expect(asked("thread.unwatch")).toHaveLength(1));
  });

  it("is one store for all that show the thread, until the last of them goes", async () => {
    thread.save([human("h1", "Hi")]);
    await show([<Chat key="a" threadId="t1" />, <Chat key="b" threadId="t1" />]);
    await until(() => expect(lines()).toEqual(["human:Hi", "human:Hi"]));
    expect(asked("thread.watch")).toHaveLength(1);
    await show([<Chat key="a" threadId="t1" />]);
    await act(async () => void hook.send("And?"));
    expect(lines()).toEqual(["human:Hi", "human:And?"]);
    await show([]);
    await until(() => expect(asked("thread.unwatch")).toHaveLength(1));
  });

  it("is another conversation with another agent, also where it has not begun", async () => {
    function With({ agent }: { agent: string }) {
      hook = useThread(connection, { agent });
      return null;
    }
    await show(<With agent="one" />);
    await show(<With agent="two" />);
    await act(async () => void hook.send("Hi"));
    await until(() => expect(asked("run.start")).toMatchObject([{ params: { agent: "two" } }]));
  });

  it("answers false to what is done before there is a connection", async () => {
    function Early() {
      hook = useThread(null, { agent: "chat" });
      return null;
    }
    await show(<Early />);
    expect(await hook.send("Hi")).toBe(false);
    expect(await hook.stop()).toBe(false);
    hook.loadEarlier();
  });

  it("detaches from its runs when it goes, and cancels nothing", async () => {
    await show(<Chat threadId="t1" />);
    await idle();
    thread.run("r1", "queued");
    thread.started("r1");
    thread.parts("r1", lifecycle({ event: "stepped", attempt: 1 }));
    await until(() => expect(hook.status.status).toBe("running"));
    await show(null);
    await until(() => expect(asked("run.unsubscribe")).toHaveLength(1));
    expect(asked("run.cancel")).toHaveLength(0);
  });
});

describe("useThreads", () => {
  it("lists the threads live, and says what was refused", async () => {
    thread.answers = {};
    let list!: ReturnType<typeof useThreads>;
    function Sidebar() {
      list = useThreads(connection, { pageSize: 1 });
      return list.threads.map(({ threadId }) => <p key={threadId}>{threadId}</p>);
    }
    await show(
      <StrictMode>
        <Sidebar />
      </StrictMode>,
    );
    const { record } = new ScriptedThread("t0");
    const at = (threadId: string, second: number) => ({
      ...record,
      threadId,
      updatedAt: `2026-01-01T00:00:0${second}.000Z`,
    });
    await until(() => expect(thread.peer).toBeDefined());
    const page = await thread.peer.command("thread.list");
    expect(page.params).toEqual({ limit: 1 });
    const watch = await thread.peer.command("thread.watch");
    thread.peer.answer(watch as never, { first: 1, head: 0, epoch: "o1" } as never);
    thread.peer.answer(page as never, { threads: [at("t1", 1)], next: "n1" } as never);
    await until(() => expect(list).toMatchObject({ status: "ready", hasMore: true }));
    const tell = (offset: number, event: object) =>
      thread.peer.event("thread.events", { offset, events: [event as never] });
    tell(1, { event: "created", thread: at("t2", 2) });
    await until(() => expect(lines()).toEqual(["t2", "t1"]));
    tell(2, { event: "metadata", thread: at("t1", 3) });
    await until(() => expect(lines()).toEqual(["t1", "t2"]));
    tell(3, { event: "deleted", threadId: "t2" });
    await until(() => expect(lines()).toEqual(["t1"]));
    await act(async () => void list.loadMore());
    const more = await thread.peer.command("thread.list");
    expect(more.params).toEqual({ limit: 1, before: "n1" });
    thread.peer.answer(more as never, { threads: [at("t0", 0)] } as never);
    await until(() => expect(lines()).toEqual(["t1", "t0"]));
    expect(list.hasMore).toBe(false);
    const renamed = list.rename("t1", "T");
    const patch = await thread.peer.command("thread.patch");
    expect(patch.params).toEqual({ threadId: "t1", metadata: { title: "T" } });
    thread.peer.refuse(patch, "unavailable");
    expect(await renamed).toBeUndefined();
    await until(() =>
      expect(list.error).toMatchObject({ action: "threads", code: "unavailable", retryable: true }),
    );
  });
});
