/**
 * What each stream mode costs on the wire: runs the example graphs on a gateway that is up, once per mode, and counts
 * the bytes of the frames that a socket gets for a run.
 *
 *     npm start                                  # in another terminal
 *     node test/dist/bench/modes.js [ws://…]
 */
import { streamModes } from "@throughline/protocol";
import { WebSocket } from "ws";

const url = process.argv[2] ?? "ws://127.0.0.1:8787/v1/ws";

interface Cost {
  bytes: number;
  frames: number;
  parts: number;
  checkpointThread: string;
}

interface Frame {
  type: string;
  method?: string;
  message?: string;
  params?: { reason?: string; parts?: { type: string }[] };
  result?: { threadId: string };
}

/** One run on a socket of its own, from its start to its end. */
async function measure(params: object): Promise<Cost> {
  const socket = new WebSocket(url, ["throughline.v1"]);
  const cost: Cost = { bytes: 0, frames: 0, parts: 0, checkpointThread: "" };
  await new Promise<void>((resolve, reject) => {
    socket.on("error", reject);
    socket.on("open", () => socket.send(JSON.stringify({ id: 1, method: "run.start", params })));
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as Frame;
      if (frame.type === "error") reject(new Error(frame.message));
      if (frame.type === "success") cost.checkpointThread = frame.result!.threadId;
      if (frame.method === "run.unsubscribed") resolve();
      if (frame.method !== "run.parts") return;
      cost.bytes += data.length;
      cost.frames += 1;
      cost.parts += frame.params!.parts!.filter(({ type }) => type !== "lifecycle").length;
    });
  });
  socket.close();
  return cost;
}

const line = (cells: (string | number)[]) => console.log(`| ${cells.join(" | ")} |`);
const number = (n: number) => Math.round(n).toLocaleString("en");

/** A text of a thousand words, said at the rate of a fast model. */
async function chat(modes: readonly string[], turns: number): Promise<Cost> {
  let threadId: string | undefined;
  let cost: Cost | undefined;
  for (let turn = 0; turn < turns; turn++) {
    const last = turn === turns - 1;
    cost = await measure({
      agent: "chat-graph",
      input: { messages: "Tell me a story", tokensPerSecond: last ? 200 : 0 },
      modes: last ? modes : ["custom"],
      ...(threadId === undefined ? {} : { threadId }),
    });
    threadId = cost.checkpointThread;
  }
  return cost!;
}

async function research(modes: readonly string[]): Promise<Cost> {
  const input = { messages: "What happens to a run when its worker dies?", tokensPerSecond: 200 };
  const { checkpointThread: threadId } = await measure({ agent: "research", input });
  return await measure({ agent: "research", threadId, command: { resume: true }, modes, subgraphs: true });
}

console.log("bytes (parts)");
line(["mode", "chat-graph, first turn", "chat-graph, tenth turn", "research"]);
line(["---", "---:", "---:", "---:"]);
const cell = ({ bytes, parts }: Cost) => `${number(bytes)} (${number(parts)})`;
for (const modes of [...streamModes.map((mode) => [mode]), ["messages", "updates", "custom"]]) {
  const costs = await Promise.all([chat(modes, 1), chat(modes, 10), research(modes)]);
  line([modes.map((mode) => `\`${mode}\``).join(", "), ...costs.map(cell)]);
}
const input = { tokensPerSecond: 200 };
const told = await measure({ agent: "storyteller", input, modes: ["messages"] });
line(["`messages` of the function agent `storyteller`", cell(told), "", ""]);
