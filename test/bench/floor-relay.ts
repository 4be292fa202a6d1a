/**
 * The floor: a bare relay of ws and ioredis. No log, no offsets, no cancel; a client names its run in the path. Its
 * catch-up (`?after`) reads one stream entry a part, and sends one frame each.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { reportReady } from "@throughline/kit";
import { Redis } from "ioredis";
import { type WebSocket, WebSocketServer } from "ws";

const subscriber = new Redis(process.env.REDIS_URL as string);
const commands = new Redis(process.env.REDIS_URL as string);
const runs = new Map<string, Set<WebSocket>>();
const server = createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });

subscriber.on("message", (channel: string, message: string) => {
  const members = runs.get(channel);
  if (members === undefined) return;
  for (const ws of members) ws.send(message);
});

async function catchUp(ws: WebSocket, run: string, after: number): Promise<void> {
  let from = "-";
  let skip = after;
  for (;;) {
    const entries = await commands.xrange(`floor:${run}`, from, "+", "COUNT", 1000);
    for (const [, fields] of entries) if (skip-- <= 0) ws.send(fields[1] as string);
    if (entries.length < 1000) return;
    from = `(${entries.at(-1)?.[0]}`;
  }
}

sockets.on("connection", (ws, request) => {
  const url = new URL(request.url as string, "http://floor");
  const run = url.pathname.slice(1);
  const after = url.searchParams.get("after");
  if (after !== null) {
    void catchUp(ws, run, Number(after));
    return;
  }
  let members = runs.get(run);
  if (members === undefined) {
    members = new Set();
    runs.set(run, members);
    void subscriber.subscribe(run).then(() => ws.send("ready"));
  } else ws.send("ready");
  members.add(ws);
  ws.on("close", () => members.delete(ws));
});
server.listen(0, "127.0.0.1", 4096, () =>
  reportReady(`ws://127.0.0.1:${(server.address() as AddressInfo).port}`),
);
// Never outlive the benchmark.
process.once("disconnect", () => process.exit(0));
process.once("SIGTERM", () => process.exit(0));
