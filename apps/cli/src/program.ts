/** The commands and their options. */

import type { StartParams, Thread } from "@throughline/client";
import type { Keep, StreamMode } from "@throughline/protocol";
import { Command } from "commander";
import {
  afterOption,
  gatewayUrl,
  jsonObject,
  keepOption,
  modeList,
  nodeList,
  runInput,
  wholeNumber,
} from "./arguments.ts";
import { exitCodes, follow } from "./follow.ts";
import { historyTree } from "./history.ts";
import { agentList, runList, threadList } from "./lists.ts";
import type { Gateway, Session } from "./session.ts";

const defaultUrl = "ws://127.0.0.1:8787/v1/ws";

interface GlobalOptions {
  url: string;
  token?: string;
  wait: number;
}

interface RunOptions {
  file?: string;
  thread?: string;
  checkpoint?: string;
  modes?: StreamMode[];
  subgraphs?: boolean;
  config?: Record<string, unknown>;
  interruptBefore?: "*" | string[];
  interruptAfter?: "*" | string[];
  /** Seconds. */
  timeout?: number;
  resume?: string;
  json?: boolean;
  quiet?: boolean;
  keep: Keep;
}

/** How a command is run: with a session of its own, answering the exit code. */
export type Perform = (
  gateway: Gateway,
  options: { quiet: boolean },
  action: (session: Session) => Promise<number>,
) => Promise<void>;

export function makeProgram(perform: Perform, env: NodeJS.ProcessEnv): Command {
  const program = new Command("throughline")
    .description("Run AI agents, and watch them work, from a terminal.")
    .option(
      "--url <url>",
      "the gateway (THROUGHLINE_URL)",
      gatewayUrl,
      gatewayUrl(env.THROUGHLINE_URL || defaultUrl),
    )
    .option("--token <token>", "a token for the gateway (THROUGHLINE_TOKEN)", env.THROUGHLINE_TOKEN)
    .option("--wait <seconds>", "how long to wait for a gateway that does not answer", wholeNumber, 10);

  const on = (quiet: boolean, action: (session: Session) => Promise<number>) => {
    const { url, token, wait } = program.opts<GlobalOptions>();
    const isNamed = program.getOptionValueSource("url") === "cli";
    return perform({ url, isNamed, token, waitSeconds: wait }, { quiet }, action);
  };
  /** A command that writes out one text. */
  const print = (text: (session: Session) => Promise<string>) =>
    on(false, async (session) => {
      session.terminal.line(await text(session));
      return exitCodes.completed;
    });

  program
    .command("run <agent> [input]")
    .description("start a run and print its text as it comes; Ctrl-C stops it")
    .option("--file <file>", "give the agent the file's contents, as {text}")
    .option("--thread <id>", "continue this thread, or begin one with this id")
    .option("--checkpoint <id>", "continue from this checkpoint of the thread")
    .option("--modes <modes>", "what the run produces, as messages,updates,custom", modeList)
    .option("--subgraphs", "also what a graph's subgraphs produce")
    .option("--config <json>", 'a graph\'s config, as {"configurable":{…}}', jsonObject)
    .option(
      "--interrupt-before <nodes>",
      "wait before these nodes of a graph, as plan,act; * for all",
      nodeList,
    )
    .option("--interrupt-after <nodes>", "wait after these nodes", nodeList)
    .option("--timeout <seconds>", "how long the run may take", wholeNumber)
    .option("--resume <answer>", "answer what an interrupted run waits for: JSON, or text")
    .option("--json", "print each part as a line of JSON, with its offset")
    .option("--quiet", "say nothing beside the text but what matters")
    .option("--keep <what>", "what a stopped run leaves: thread, branch or discard", keepOption, "thread")
    .action((agent: string, input: string | undefined, options: RunOptions) =>
      on(options.quiet === true, async (session) => {
        const run = session.connection.start(startParams(agent, input, options));
        return follow(run, { json: options.json === true, keep: options.keep, agent }, session);
      }),
    );

  program
    .command("attach <run>")
    .description("follow a run; Ctrl-C leaves it running")
    .option("--after <offset>", "the last offset that you have, or head for only what is new", afterOption, 0)
    .option("--json", "print each part as a line of JSON, with its offset")
    .option("--quiet", "say nothing beside the text but what matters")
    .action((runId: string, options: { after: number | "head"; json?: boolean; quiet?: boolean }) =>
      on(options.quiet === true, async (session) => {
        const run = session.connection.attach(runId, { after: options.after });
        return follow(run, { json: options.json === true, keep: undefined, agent: undefined }, session);
      }),
    );

  program
    .command("cancel <run>")
    .description("stop a run, and say where it stopped")
    .option("--keep <what>", "what it leaves: thread, branch or discard", keepOption, "thread")
    .option("--reason <text>", "why")
    .action((runId: string, options: { keep: Keep; reason?: string }) =>
      on(false, async ({ connection, terminal }) => {
        const { status, offset, checkpoint } = await connection.cancel(runId, options);
        const where = offset === undefined ? "" : ` at offset ${offset}`;
        const saved = checkpoint
          ? `; checkpoint ${checkpoint.checkpointId} of thread ${checkpoint.threadId}`
          : "";
        terminal.line(`${status}${where}${saved}`);
        return exitCodes.completed;
      }),
    );

  program
    .command("threads")
    .description("list the threads of your newest runs")
    .action(() =>
      print(async ({ connection }) => threadList(await connection.runs({ limit: 200 }), Date.now())),
    );

  program
    .command("runs")
    .description("list your runs, newest first")
    .option("--thread <id>", "only those of this thread")
    .option("--limit <n>", "how many, up to 200", wholeNumber, 20)
    .action(({ thread, limit }: { thread?: string; limit: number }) =>
      print(async ({ connection }) => {
        const of = thread === undefined ? {} : { threadId: thread };
        return runList(await connection.runs({ ...of, limit }), Date.now());
      }),
    );

  program
    .command("history <thread>")
    .description("list a thread's checkpoints, newest first, with their branches")
    .option("--limit <n>", "how many, up to 200", wholeNumber, 50)
    .action((threadId: string, { limit }: { limit: number }) =>
      print(async ({ connection }) => {
        const thread = connection.thread(threadId);
        const [checkpoints, head] = await Promise.all([thread.history({ limit }), headOf(thread)]);
        return historyTree(checkpoints, head, Date.now());
      }),
    );

  program
    .command("agents")
    .description("list the agents that workers offer")
    .action(() => print(async ({ connection }) => agentList(await connection.agents())));

  return program;
}

/** The checkpoint that the thread goes on from; none where all that it has is kept on branches. */
async function headOf(thread: Thread): Promise<string | undefined> {
  return (await thread.get()).checkpointId ?? undefined;
}

export function startParams(agent: string, input: string | undefined, options: RunOptions): StartParams {
  const params: StartParams = { agent };
  if (options.resume !== undefined) {
    const resume = runInput(options.resume, undefined);
    params.command = { resume } as NonNullable<StartParams["command"]>;
  } else {
    const given = runInput(input, options.file);
    if (given !== undefined) params.input = given;
  }
  if (options.thread !== undefined) params.threadId = options.thread;
  if (options.checkpoint !== undefined) params.checkpointId = options.checkpoint;
  if (options.modes !== undefined) params.modes = options.modes;
  if (options.subgraphs !== undefined) params.subgraphs = options.subgraphs;
  if (options.interruptBefore !== undefined) params.interruptBefore = options.interruptBefore;
  if (options.interruptAfter !== undefined) params.interruptAfter = options.interruptAfter;
  if (options.timeout !== undefined) params.timeoutMs = options.timeout * 1000;
  if (options.config !== undefined) params.config = options.config as NonNullable<StartParams["config"]>;
  return params;
}
