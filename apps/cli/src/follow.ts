/** Follows a run to its end, or to the press of a key. */
import type { EndingData, Run } from "@throughline/client";
import { isEnding, type Keep } from "@throughline/protocol";
import { quoted } from "./arguments.ts";
import { announceReconnects, explain, type Session } from "./session.ts";
import { jsonLine, lifecycleLine, savedIn, Transcript } from "./transcript.ts";

export interface FollowOptions {
  json: boolean;
  /** What Ctrl-C does with the run: cancels it, keeping this; undefined: only leaves it. */
  keep: Keep | undefined;
  /** The run's agent; undefined: the gateway knows. */
  agent: string | undefined;
}

/** How long a run may be silent at first before it is said what it waits for, ms. */
const patienceMs = 2_000;

export const exitCodes = { completed: 0, failed: 1, cancelled: 130 } as const;

/** Writes out the run. Answers the exit code. */
export async function follow(
  following: Run | Promise<Run>,
  options: FollowOptions,
  session: Session,
): Promise<number> {
  const { terminal } = session;
  let run: Run | undefined;
  let pressedEarly = false;
  const stops = [
    announceReconnects(session, () => (run?.offset ?? 0) + 1),
    session.onInterrupt((press) => {
      if (run !== undefined) interrupted(run, press, options, session);
      else if (pressedEarly || options.keep === undefined) session.exit(exitCodes.cancelled);
      else terminal.note("stopping, as soon as it has started … (once more: leave at once)");
      pressedEarly = true;
    }),
  ];
  try {
    run = await following;
    const waiting = setTimeout(() => void sayWhatFor(run!, options, session), patienceMs);
    stops.push(() => clearTimeout(waiting));
    if (pressedEarly) interrupted(run, 1, options, session);
    const transcript = new Transcript();
    let silent = true;
    for await (const event of run.events) {
      silent = false;
      clearTimeout(waiting);
      if (options.json) terminal.line(jsonLine(event));
      else for (const output of transcript.add(event)) terminal.show(output);
    }
    const ending = await run.ended;
    // It had ended before the offset that was asked for.
    if (silent && !options.json) for (const output of lifecycleLine(ending)) terminal.show(output);
    terminal.end();
    return await conclude(run, ending, options, session);
  } finally {
    terminal.end();
    for (const stop of stops) stop();
  }
}

/** A run that nobody has begun waits for its turn in the thread, for a worker that is free, or for one that knows its agent. */
async function sayWhatFor(
  run: Run,
  options: FollowOptions,
  { terminal, connection }: Session,
): Promise<void> {
  try {
    const [record, agents] = await Promise.all([connection.getRun(run.runId), connection.agents()]);
    if (record.status !== "queued") return;
    const agent = options.agent ?? record.agent;
    const isOffered = agents.some(({ name }) => name === agent);
    terminal.note(
      isOffered
        ? "queued: it waits for its turn"
        : `queued: no live worker offers ${agent}; it begins when one does (Ctrl-C ends it)`,
    );
  } catch {
    // The connection is away, which is said already; or the run has ended meanwhile.
  }
}

function interrupted(run: Run, press: number, { keep }: FollowOptions, session: Session): void {
  const { terminal, command } = session;
  if (press === 1 && keep !== undefined) {
    terminal.note("stopping … (once more: leave at once)");
    run.cancel({ keep }).then(
      ({ status }) => {
        if (status === "cancelling") terminal.note("it has not stopped yet, but it will");
      },
      (error: unknown) => {
        // Its ending may come before the answer, and the connection may be closed by then.
        if (!isEnding(run.status)) terminal.note(`cannot be stopped: ${explain(error, command)}`);
      },
    );
    return;
  }
  terminal.end();
  const goesOn = keep === undefined ? "left; the run goes on" : "left without waiting";
  terminal.note(`${goesOn}. To see the rest: ${command} attach ${quoted(run.runId)} --after ${run.offset}`);
  session.exit(exitCodes.cancelled);
}

async function conclude(
  run: Run,
  ending: EndingData,
  options: FollowOptions,
  session: Session,
): Promise<number> {
  const { terminal, command, connection } = session;
  const agentName = async () => options.agent ?? (await connection.getRun(run.runId)).agent;
  switch (ending.event) {
    case "completed":
      return exitCodes.completed;
    case "failed":
      return exitCodes.failed;
    case "interrupted": {
      const thread = ending.checkpoint?.threadId ?? run.threadId;
      if (thread !== undefined) {
        const run = `${command} run ${quoted(await agentName())}`;
        const answer = ending.interrupts.length === 0 ? "" : ` --resume ${answerTo(ending.interrupts)}`;
        const what = answer === "" ? "to go on" : "to answer";
        terminal.note(`${what}: ${run}${answer} --thread ${quoted(thread)}`);
      }
      return exitCodes.completed;
    }
    case "cancelled":
      terminal.note(stoppedLine(run.offset, ending));
      if (ending.keep !== "discard" && ending.checkpoint) {
        terminal.note(`to go on: ${command} ${goOn(await agentName(), ending)}`);
      }
      return exitCodes.cancelled;
  }
}

/** What is to be replaced by the answer: JSON or text; of several, each under its id. */
export function answerTo(interrupts: readonly { id: string }[]): string {
  if (interrupts.length === 1) return "ANSWER";
  return quoted(JSON.stringify(Object.fromEntries(interrupts.map(({ id }) => [id, "ANSWER"]))));
}

type Cancelled = Extract<EndingData, { event: "cancelled" }>;

export function stoppedLine(offset: number, { keep, checkpoint }: Cancelled): string {
  const stopped = `stopped at offset ${offset}`;
  if (keep === "discard") return `${stopped}; the thread is as it was before the run`;
  return `${stopped}${savedIn(checkpoint)}${keep === "branch" ? ", off its main line" : ""}`;
}

/** The arguments that continue from a cancelled run's partial. */
export function goOn(agent: string, { keep, checkpoint }: Cancelled): string {
  // The storyteller knows how to go on by itself; others are told what to do.
  const input = agent === "storyteller" ? '{"continue":true}' : "go on";
  const words = ["run", agent, input, "--thread", checkpoint?.threadId ?? ""];
  if (keep === "branch" && checkpoint) words.push("--checkpoint", checkpoint.checkpointId);
  return words.map(quoted).join(" ");
}
