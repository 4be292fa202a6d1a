/**
 * The page of browser.test.ts: follows a run through what the test does to its connection, stops it, and hands over what
 * it saw. It is in the browser's hands alone; the test learns nothing but what it posts.
 */
import { type ConnectionState, connect, type OffsetPart } from "@throughline/client";

/** What the page asks the test to do. */
export type Blow = "restart the gateway" | "cut the cable";

export interface Story {
  runId: string;
  delivered: OffsetPart[];
  /** The text as the tokens came. */
  streamed: string;
  /** The text as the client's fold has it. */
  folded: string;
  /** The connections, one after the other. */
  connections: string[];
  cancelled: unknown;
  ending: unknown;
  /** How a connection to a path of the page's own server ended, where no gateway is. */
  nowhere: ConnectionState;
}

export type Outcome = { story: Story } | { failure: string };

async function post(path: string, body: unknown): Promise<void> {
  const { ok, statusText } = await fetch(path, { method: "POST", body: JSON.stringify(body) });
  if (!ok) throw new Error(`${path}: ${statusText}`);
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** The state in which a connection ends by itself. */
async function endOf(url: string): Promise<ConnectionState> {
  const connection = connect(url);
  await until(() => connection.state.status === "closed");
  return connection.state;
}

async function tell(gateway: string): Promise<Story> {
  const nowhere = endOf(`ws://${location.host}/nowhere`);
  const connection = connect(gateway);
  const connections: string[] = [];
  connection.onState((state) => {
    if (state.status === "open") connections.push(state.connectionId);
  });
  const run = await connection.start({ agent: "talker" });
  const delivered: OffsetPart[] = [];
  let streamed = "";
  const reading = (async () => {
    for await (const each of run) {
      delivered.push(each);
      if (each.part.type === "messages") streamed += each.part.data[0].content;
    }
  })();
  const hasMore = () => {
    const before = delivered.length;
    return until(() => delivered.length > before + 10);
  };
  await hasMore();
  for (const blow of ["restart the gateway", "cut the cable"] satisfies Blow[]) {
    const before = connections.length;
    await post("/blow", blow);
    await until(() => connections.length > before && connection.state.status === "open");
    await hasMore();
  }
  const cancelled = await run.cancel();
  await reading;
  const ending = await run.ended;
  connection.close();
  const story = { runId: run.runId, delivered, streamed, folded: run.text, connections, cancelled, ending };
  return { ...story, nowhere: await nowhere };
}

const gateway = new URL(import.meta.url).searchParams.get("gateway") ?? "";
const outcome: Outcome = await tell(gateway).then(
  (story) => ({ story }),
  (error: unknown) => ({ failure: error instanceof Error ? `${error.stack}` : String(error) }),
);
await post("/outcome", outcome);
