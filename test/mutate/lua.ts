/** Runs the tests against each mutant of Lua scripts, in the copy. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type PrivateRedis, startPrivateRedis } from "@throughline/local";
import { createVitest, type Vitest } from "vitest/node";
import { type Mutant, mutantsOf } from "./lua-mutants.ts";

/** Longer than the tests take where they pass. What takes longer has been noticed, too. */
const deadlineMs = 90_000;

export interface Outcome extends Mutant {
  path: string;
  end: "killed" | "timeout" | "survived";
}

export class LuaTests {
  readonly #copy: string;
  readonly #tests: string[];
  #redis: PrivateRedis | undefined;
  #vitest: Vitest | undefined;

  constructor(copy: string, tests: string[]) {
    this.#copy = copy;
    this.#tests = tests;
  }

  /**
   * @throws Error where the tests fail without any mutant
   */
  async check(): Promise<void> {
    if ((await this.#run()) !== "survived")
      throw new Error("the tests fail as it is: there is nothing to learn");
  }

  async mutate(path: string, onOutcome: (outcome: Outcome) => void): Promise<void> {
    const file = join(this.#copy, path);
    const script = readFileSync(file, "utf8");
    try {
      for (const mutant of mutantsOf(script)) {
        writeFileSync(file, mutant.text);
        onOutcome({ ...mutant, path, end: await this.#run() });
      }
    } finally {
      writeFileSync(file, script);
    }
  }

  async stop(): Promise<void> {
    await this.#vitest?.close();
    await this.#redis?.stop();
    this.#vitest = this.#redis = undefined;
  }

  async #run(): Promise<Outcome["end"]> {
    const vitest = await this.#ready();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<"late">((resolve) => {
      timer = setTimeout(resolve, deadlineMs, "late");
    });
    vitest.state.filesMap.clear();
    const specifications = await vitest.globTestSpecifications();
    const run = await Promise.race([vitest.runTestSpecifications(specifications, true), late]);
    clearTimeout(timer);
    if (run !== "late") {
      const failed = run.testModules.some((module) => !module.ok()) || run.unhandledErrors.length > 0;
      return failed ? "killed" : "survived";
    }
    // A script that does not end: Redis is of no use any more, nor are those who wait for it.
    if (this.#redis !== undefined) process.kill(this.#redis.pid, "SIGKILL");
    await this.stop();
    return "timeout";
  }

  async #ready(): Promise<Vitest> {
    this.#redis ??= await startPrivateRedis();
    process.env.TEST_REDIS_URL = this.#redis.url;
    process.env.MUTATE_TESTS = this.#tests.join(",");
    process.chdir(this.#copy);
    this.#vitest ??= await createVitest("test", {
      root: this.#copy,
      config: join(this.#copy, "test/mutate/vitest.config.ts"),
      watch: false,
      bail: 1,
      // One process for all: what takes the time is to start it.
      isolate: false,
      fileParallelism: false,
      reporters: [{}],
    });
    return this.#vitest;
  }
}
