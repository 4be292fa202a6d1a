/** One round: the line goes up, clients live on it, faults strike, calm comes, and everything is looked at. */
import { setTimeout as sleep } from "node:timers/promises";
import { Auditor } from "./audit.ts";
import { Director } from "./director.ts";
import { type FaultName, takeoverMs } from "./faults.ts";
import { auditConnections, auditKeys, auditMemory, auditSubscriptions } from "./leaks.ts";
import { Ledger } from "./ledger.ts";
import { planFaults } from "./plan.ts";
import { Population } from "./population.ts";
import { Random } from "./random.ts";
import { Stage, type StageSize } from "./stage.ts";
import { auditThreads } from "./threads.ts";

export interface RoundOptions extends StageSize {
  seed: string;
  minutes: number;
  clients: number;
  /** How many conversations are with graphs: 0 to 1. */
  graphs: number;
  faults: readonly FaultName[];
  /** Where the processes' logs stay, always; otherwise only where something broke a rule. */
  keepLogs: boolean;
  say: (line: string) => void;
}

export interface RoundResult {
  ledger: Ledger;
  /** Bytes that each service held beyond a fresh one, at the end. */
  grown: Map<string, number>;
  /** Where the processes' logs are; undefined: deleted. */
  logs: string | undefined;
}

const sayEveryMs = 30_000;
const auditEveryMs = 500;
/** How long runs and readers get to come to their end once nothing is broken any more. */
const finishMs = 90_000;
const wholeMs = 30_000;

export async function playRound(options: RoundOptions): Promise<RoundResult> {
  const { seed, minutes, clients, graphs, say } = options;
  const random = new Random(seed);
  const ledger = new Ledger();
  let population: Population | undefined;
  const stage = await Stage.open(options, {
    lost: (instance, how) => {
      population?.lost(instance, how);
      if (how !== "crashed") return;
      const detail = `${instance.name} (${instance.pid})`;
      ledger.strike({
        name: "crash",
        detail,
        ofRedis: false,
        renewsEpochs: false,
        aftermathMs: takeoverMs,
      }).until = Date.now();
    },
    violation: (what) => ledger.violation(what),
    redisTroubled: (since) => ledger.redisTroubled(since),
  });
  try {
    population = new Population(clients, graphs, random.fork("clients"), ledger, stage);
    const auditor = new Auditor(stage.redis, ledger);
    const stopAuditing = repeat(auditEveryMs, () => auditor.auditEnded(), ledger);
    const stopSaying = repeat(sayEveryMs, async () => say(progress(ledger, population!)), ledger);

    population.start();
    const plan = planFaults(random.fork("faults"), minutes * 60_000, options.faults);
    await Promise.all([new Director({ stage, population }, ledger).play(plan), sleep(minutes * 60_000)]);
    say(`${progress(ledger, population)}; waiting for what goes on to end`);

    await stage.whole(wholeMs).catch((error) => ledger.violation(String(error)));
    if (!(await population.finish(finishMs)))
      ledger.violation(`not all clients were done after ${finishMs} ms of calm`);
    await stopAuditing();
    await stopSaying();
    for (const run of ledger.runs.values()) {
      if (run.outcome === undefined) await auditor.audit(run);
      else await auditor.auditAgain(run);
    }
    await auditThreads(stage.redis, ledger);
    population.close();
    await auditSubscriptions(stage.redis, ledger);
    await auditKeys(stage.redis, ledger);
    const grown = await auditMemory(stage, ledger);
    await stage.closeServices();
    await auditConnections(stage.redis, ledger);
    return { ledger, grown, logs: ledger.violations.length > 0 || options.keepLogs ? stage.dir : undefined };
  } finally {
    population?.close();
    await stage.close(ledger.violations.length > 0 || options.keepLogs);
  }
}

/** Does it every so often, one at a time, until what this answers is called; that resolves when the last one is done. */
function repeat(everyMs: number, task: () => Promise<void>, ledger: Ledger): () => Promise<void> {
  let stopped = false;
  const stop = new AbortController();
  const loop = (async () => {
    while (!stopped) {
      await sleep(everyMs, undefined, { signal: stop.signal }).catch(() => {});
      if (stopped) return;
      await task().catch((error) =>
        ledger.violation(`the chaos program itself failed: ${error?.stack ?? error}`),
      );
    }
  })();
  return async () => {
    stopped = true;
    stop.abort();
    await loop;
  };
}

function progress(ledger: Ledger, population: Population): string {
  const { runs, active, faults, violations } = ledger;
  return (
    `${ledger.at(Date.now())}: ${runs.size} runs, ${active.length} of them going, ${population.sockets} sockets, ` +
    `${faults.length} faults, ${violations.length} violations`
  );
}
