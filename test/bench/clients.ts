/** The benchmark's clients. They check order as they count, without parsing more than they must. */
import WebSocket from "ws";
import { graphInput } from "./graph.ts";
import type { Load } from "./load.ts";
import { microseconds } from "./processes.ts";

const newline = 0x0a;

/** What one client saw. */
export interface Seen {
  parts: number;
  frames: number;
  bytes: number;
  /** µs on the shared clock. */
  doneAt: number;
  latencies: number[];
}

function nothingSeen(): Seen {
  return { parts: 0, frames: 0, bytes: 0, doneAt: 0, latencies: [] };
}

/** When the part whose JSON begins at `at` was made: its text begins with it. */
function madeAt(data: Buffer, at: number): number {
  const content = data.indexOf('"content":"', at) + 11;
  return Number(data.toString("latin1", content, data.indexOf(" ", content)));
}

export interface Follower {
  ready: Promise<void>;
  done: Promise<Seen>;
  close(): void;
}

/** Follows a run of the floor until it has `parts` parts. */
export function followFloor(
  url: string,
  run: string,
  parts: number,
  timed: boolean,
  after?: number,
): Follower {
  const seen = nothingSeen();
  const ws = new WebSocket(`${url}/${run}${after === undefined ? "" : `?after=${after}`}`, {
    perMessageDeflate: false,
  });
  let ready!: () => void;
  const isReady = new Promise<void>((resolve) => {
    ready = resolve;
  });
  const done = new Promise<Seen>((resolve, reject) => {
    ws.on("error", reject);
    ws.on("message", (data: Buffer) => {
      if (data.length === 5) return ready();
      seen.parts++;
      seen.frames++;
      seen.bytes += data.length;
      if (timed) seen.latencies.push(microseconds() - madeAt(data, 0));
      if (seen.parts === parts) {
        seen.doneAt = microseconds();
        resolve(seen);
      }
    });
  });
  if (after !== undefined) ws.on("open", () => ready());
  return { ready: isReady, done, close: () => ws.terminate() };
}

interface Line {
  ws: WebSocket;
  command<T>(method: string, params: object): Promise<T>;
  onParts: (data: Buffer) => void;
  onEvent: (event: { method: string; params: Record<string, unknown> }) => void;
}

/** A raw connection to a gateway. */
export async function connect(url: string): Promise<Line> {
  const ws = new WebSocket(url, "throughline.v1", { perMessageDeflate: false });
  const waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  let nextId = 1;
  const line: Line = {
    ws,
    command(method, params) {
      const id = nextId++;
      ws.send(JSON.stringify({ id, method, params }));
      return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
    },
    onParts: () => {},
    onEvent: () => {},
  };
  const prefix = '{"type":"event","method":"run.parts"';
  ws.on("message", (data: Buffer) => {
    if (data.toString("latin1", 0, prefix.length) === prefix) return line.onParts(data);
    const frame = JSON.parse(data.toString());
    if (frame.type === "event") return line.onEvent(frame);
    const call = waiting.get(frame.id);
    waiting.delete(frame.id);
    if (frame.type === "success") call?.resolve(frame.result as never);
    else call?.reject(new Error(`${frame.error}: ${frame.message}`));
  });
  await new Promise((resolve, reject) => {
    ws.once("open", resolve);
    ws.once("error", reject);
  });
  return line;
}

/** Counts a subscription's parts, checks that its frames are contiguous, and resolves with its end. */
export function watch(line: Line, timed: boolean): Promise<Seen> {
  const seen = nothingSeen();
  let next = 0;
  return new Promise((resolve, reject) => {
    line.onParts = (data) => {
      const at = data.indexOf('"offset":') + 9;
      const offset = Number(data.toString("latin1", at, data.indexOf(",", at)));
      if (next !== 0 && offset !== next) reject(new Error(`a frame began at ${offset}, not at ${next}`));
      let parts = 1;
      for (let i = data.indexOf(newline); i !== -1; i = data.indexOf(newline, i + 1)) parts++;
      next = offset + parts;
      seen.parts += parts;
      seen.frames++;
      seen.bytes += data.length;
      if (!timed || data.indexOf('"messages"') === -1) return;
      const now = microseconds();
      for (let i = data.indexOf('"content":"'); i !== -1; i = data.indexOf('"content":"', i + 1)) {
        seen.latencies.push(now - madeAt(data, i));
      }
    };
    line.onEvent = (event) => {
      if (event.method !== "run.unsubscribed") return;
      seen.doneAt = microseconds();
      resolve(seen);
    };
    line.ws.once("close", (code) => reject(new Error(`closed with ${code}`)));
  });
}

/** Starts a run of the agent that tells parts, or of the graph whose model says them. */
export async function startRun(
  line: Line,
  load: Load,
  subscribe: boolean,
  agent: "bench" | "graph" = "bench",
): Promise<string> {
  const input = agent === "graph" ? graphInput(load) : load;
  const { runId } = await line.command<{ runId: string }>("run.start", { agent, input, subscribe });
  return runId;
}
