#!/usr/bin/env node
/** The process: its streams, its signals, its exit code. */
import { CommanderError, InvalidArgumentError } from "commander";
import { quoted } from "./arguments.ts";
import { exitCodes } from "./follow.ts";
import { makeProgram, type Perform } from "./program.ts";
import { explain, openConnection, type Session } from "./session.ts";
import { Presses, Terminal } from "./terminal.ts";

const { stdout, stderr, env } = process;
const program = env.npm_lifecycle_event === "cli" ? "npm run cli --" : "throughline";

// Who reads has gone, as `head` does. The run does not mind.
stdout.on("error", (error: NodeJS.ErrnoException) => {
  process.exit(error.code === "EPIPE" ? exitCodes.completed : exitCodes.failed);
});

const listeners = new Set<(press: number) => void>();
const presses = new Presses(() => performance.now());
process.on("SIGINT", () => {
  const press = presses.signal();
  if (press === undefined) return;
  if (listeners.size === 0) process.exit(exitCodes.cancelled);
  for (const listener of [...listeners]) listener(press);
});

const perform: Perform = async (gateway, { quiet }, action) => {
  const terminal = new Terminal(stdout, stderr, {
    color: stderr.isTTY === true && env.NO_COLOR === undefined,
    quiet,
  });
  const command = gateway.isNamed ? `${program} --url ${quoted(gateway.url)}` : program;
  let code: number = exitCodes.failed;
  try {
    const connection = await openConnection(gateway, terminal);
    const session: Session = {
      connection,
      terminal,
      command,
      onInterrupt: (listener) => {
        listeners.add(listener);
        return () => listeners.delete(listener);
      },
      exit: (code) => process.exit(code),
    };
    code = await action(session);
    connection.close();
  } catch (error) {
    terminal.note(explain(error, command));
  }
  // What is still to be written is written first; a socket's farewell is not worth waiting for.
  stdout.write("", () => process.exit(code));
};

try {
  await makeProgram(perform, env).parseAsync();
} catch (error) {
  // Commander tells of its own errors itself; the address in the environment is parsed before it is at work.
  if (error instanceof InvalidArgumentError || !(error instanceof CommanderError)) {
    stderr.write(`${explain(error, program)}\n`);
  }
  process.exit(exitCodes.failed);
}
