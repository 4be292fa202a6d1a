import type { ThreadRecord } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { type Connection, connect } from "../connection.ts";
import { type Peer, ScriptedGateway, ScriptedThread } from "../testing/index.ts";
import { type Threads, type ThreadsOptions, threads } from "./index.ts";

let gateway: ScriptedGateway;
let peer: Peer;
let connection: Connection;
let list: Threads;

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  connection = connect(gateway.url, { WebSocket });
  peer = await gateway.accept();
  const pinged = connection.ping();
  peer.answer(await peer.command("server.ping"), {});
  await pinged;
});

afterEach(async () => {
  list.close();
  connection.close();
  await gateway.close();
});

const view = () => list.getSnapshot();
const ids = () => view().threads.map(({ threadId }) => threadId);
const until = (check: () => void) => vi.waitFor(check, { timeout: 60_000, interval: 2 });

const record = (threadId: string, second = 0): ThreadRecord => ({
  ...new ScriptedThread(threadId).record,
  updatedAt: new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString(),
});

async function open(options: ThreadsOptions = {}): Promise<void> {
  list = threads(connection, options);
  peer.answer(await peer.command("thread.watch"), { first: 1, head: 0, epoch: "w1" });
}

async function page(...found: ThreadRecord[]): Promise<void> {
  peer.answer(await peer.command("thread.list"), { threads: found });
}

const isReady = () => until(() => expect(view().status).toBe("ready"));

describe("a list of threads", () => {
  it("keeps what it shows until it is read anew, and what is told meanwhile", async () => {
    await open();
    await page(record("t1", 1), record("t2", 2));
    await isReady();
    const seen: string[] = [];
    list.subscribe(() => seen.push(ids().join()));
    peer.event("thread.reset", { epoch: "w2", offset: 3, reason: "trimmed" } as never);
    const again = await peer.command("thread.list");
    peer.event("thread.events", { offset: 4, events: [{ event: "created", thread: record("t3", 3) }] });
    await until(() => expect(ids()).toEqual(["t3", "t2", "t1"]));
    // One that was deleted in the gap is gone; one that came since is newer than the page.
    peer.answer(again, { threads: [record("t2", 2)] });
    await until(() => expect(ids()).toEqual(["t3", "t2"]));
    expect(new Set(seen)).toEqual(new Set(["t3,t2,t1", "t3,t2"]));
  });

  it("tries again where it cannot be read for now", async () => {
    await open();
    peer.refuse(await peer.command("thread.list"), "unavailable");
    await page(record("t1"));
    await isReady();
    expect(ids()).toEqual(["t1"]);
    expect(view().error).toBeUndefined();
  });

  it("is unavailable where it may not be read", async () => {
    await open();
    peer.refuse(await peer.command("thread.list"), "invalid_argument");
    await until(() => expect(view().status).toBe("unavailable"));
    expect(view().error).toMatchObject({ action: "open", code: "invalid_argument" });
  });

  it("is live when it is asked for again, after its watch was refused", async () => {
    list = threads(connection);
    peer.refuse(await peer.command("thread.watch"), "invalid_argument");
    await page(record("t1"));
    await until(() => expect(view().status).toBe("unavailable"));
    list.close();
    await open({ pageSize: 7 });
    await page(record("t1", 1));
    await isReady();
    peer.event("thread.events", { offset: 1, events: [{ event: "created", thread: record("t2", 2) }] });
    await until(() => expect(ids()).toEqual(["t2", "t1"]));
  });
});
