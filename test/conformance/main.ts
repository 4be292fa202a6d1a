/** `npm run conformance -- ws://host:8787/v1/ws [--token T] …`: the suite against any gateway. One line per rule. */
import { parseArgs } from "node:util";
import { type GatewayTarget, gatewayTests, missing } from "./gateway.ts";

const usage = `npm run conformance -- URL [options]

  URL               ws://host:8787/v1/ws
  --token T         a token, where the gateway asks for one
  --fresh-token T   another token of the same principal
  --other-token T   a token of somebody else's
  --bad-origin O    an Origin that the gateway refuses
  --agent NAME      an agent that streams its input {text, tokensPerSecond}; default: storyteller
  --only R12,R13    only these rules
`;

const testMs = 60_000;
/** Characters of a failure's reason: it is to stay one line. */
const maxReason = 400;

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      token: { type: "string" },
      "fresh-token": { type: "string" },
      "other-token": { type: "string" },
      "bad-origin": { type: "string" },
      agent: { type: "string" },
      only: { type: "string" },
      help: { type: "boolean", short: "h" },
    },
  });
  const [url] = positionals;
  if (values.help === true) {
    process.stdout.write(usage);
    return 0;
  }
  if (url === undefined || positionals.length > 1 || !/^wss?:/.test(url)) {
    process.stderr.write(usage);
    return 2;
  }
  const given: Partial<GatewayTarget> = {
    token: values.token,
    freshToken: values["fresh-token"],
    otherToken: values["other-token"],
    forbiddenOrigin: values["bad-origin"],
    agent: values.agent,
  } as Partial<GatewayTarget>;
  const target: GatewayTarget = { url, ...given };
  const only = values.only?.split(",");

  const counts = { PASS: 0, FAIL: 0, SKIP: 0 };
  for (const test of gatewayTests) {
    if (only !== undefined && !only.includes(test.rule)) continue;
    const lacks = missing(test, target);
    const failure = lacks.length > 0 ? undefined : await failureOf(test.run(target));
    const outcome = lacks.length > 0 ? "SKIP" : failure === undefined ? "PASS" : "FAIL";
    counts[outcome]++;
    const why = failure ?? (lacks.length > 0 ? `needs ${lacks.join(", ")}` : undefined);
    const line = `${outcome} ${test.rule.padEnd(4)} ${test.name}${why === undefined ? "" : `: ${why}`}`;
    process.stdout.write(`${line}\n`);
  }
  process.stdout.write(`${counts.PASS} passed, ${counts.FAIL} failed, ${counts.SKIP} skipped\n`);
  return counts.FAIL > 0 || counts.PASS === 0 ? 1 : 0;
}

/** Why it failed, in one line; undefined where it passed. */
async function failureOf(running: Promise<void>): Promise<string | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${testMs / 1000} s`)), testMs);
  });
  try {
    await Promise.race([running, late]);
    return undefined;
  } catch (error) {
    const reason = (error instanceof Error ? error.message : String(error)).replace(/\s*\n\s*/g, " ");
    return reason.length > maxReason ? `${reason.slice(0, maxReason)}…` : reason;
  } finally {
    clearTimeout(timer);
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n\n${usage}`);
  process.exitCode = 2;
}
