/** nginx and HAProxy as infra/ has them, in front of gateways: nothing is changed in the files but addresses and times. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findFreePort } from "@throughline/local";
import { findProgram } from "./apt.ts";
import { repositoryFile } from "./program.ts";
import { patienceMs, until } from "./until.ts";

export type BalancerName = "nginx" | "haproxy";
export const balancerNames: readonly BalancerName[] = ["nginx", "haproxy"];

export interface Balancer {
  readonly name: BalancerName;
  readonly port: number;
  readonly url: string;
  /** What it wrote to stderr. */
  readonly log: () => string;
  stop(): Promise<void>;
}

export interface BalancerOptions {
  /** The gateways' ports on the loopback; as many as the file names. */
  gateways: readonly number[];
  /** In place of the file's timeout of a quiet socket. */
  quietTimeout?: string;
}

interface Kind {
  file: string;
  /** Where it listens, and how long a socket may be quiet: what the file says, and how to say it. */
  listen: [string, (address: string) => string];
  quiet: [string, (time: string) => string];
  /** What the program is given, and how it is told to check it. */
  command: (dir: string) => { run: string[]; check: string[] };
  /** The whole of its configuration. */
  wrap: (config: string, dir: string) => string;
}

const kinds: Record<BalancerName, Kind> = {
  nginx: {
    file: "infra/nginx/throughline.conf",
    listen: ["listen 80;", (address) => `listen ${address};`],
    quiet: ["proxy_read_timeout 360s;", (time) => `proxy_read_timeout ${time};`],
    command: (dir) => {
      const args = ["-p", dir, "-e", "stderr", "-c", join(dir, "config")];
      return { run: args, check: ["-t", ...args] };
    },
    // What a distribution's nginx.conf has around conf.d/*.conf.
    wrap: (given, dir) => {
      // That path may be another user's.
      const config = given.replace("error_log /var/log/nginx/error.log crit;", "error_log stderr crit;");
      const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map((each) => `${each}_temp_path ${dir}/${each};`)
        .join(" ");
      return `daemon off; pid ${dir}/pid; error_log stderr warn; worker_processes 2;
events { worker_connections 4096; }
http { ${paths} access_log off;
${config}
}
`;
    },
  },
  haproxy: {
    file: "infra/haproxy/haproxy.cfg",
    listen: ["bind :80", (address) => `bind ${address}`],
    quiet: ["timeout tunnel 360s", (time) => `timeout tunnel ${time}`],
    command: (dir) => {
      const args = ["-db", "-f", join(dir, "config")];
      return { run: args, check: ["-c", ...args] };
    },
    wrap: (config) => config,
  },
};

/** Starts one, after it has found its own configuration to be in order. It listens when this resolves. */
export async function startBalancer(name: BalancerName, options: BalancerOptions): Promise<Balancer> {
  const kind = kinds[name];
  const program = await findProgram([name], name);
  const dir = mkdtempSync(join(tmpdir(), `throughline-${name}-`));
  const port = await findFreePort();
  writeFileSync(join(dir, "config"), kind.wrap(configure(kind, port, options), dir));
  const { run, check } = kind.command(dir);
  await runCheck(program, check);
  const child = spawn(program, run, { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  const exited = once(child, "close");
  await until(
    () => {
      if (child.exitCode !== null) throw new Error(log);
      return accepts(port);
    },
    patienceMs,
    `${name} listening`,
  );
  return {
    name,
    port,
    url: `ws://127.0.0.1:${port}/v1/ws`,
    log: () => log,
    async stop() {
      child.kill("SIGTERM");
      await exited;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function configure(kind: Kind, port: number, { gateways, quietTimeout }: BalancerOptions): string {
  let config = readFileSync(repositoryFile(kind.file), "utf8");
  const replace = (said: string, by: string) => {
    if (!config.includes(said)) throw new Error(`${kind.file} does not say "${said}"`);
    config = config.replace(said, by);
  };
  replace(kind.listen[0], kind.listen[1](`127.0.0.1:${port}`));
  // In two steps: a free port may be one that the file names.
  for (const [i] of gateways.entries()) replace(`127.0.0.1:${8787 + i}`, `gateway-address-${i}`);
  for (const [i, gateway] of gateways.entries()) replace(`gateway-address-${i}`, `127.0.0.1:${gateway}`);
  if (quietTimeout !== undefined) replace(kind.quiet[0], kind.quiet[1](quietTimeout));
  return config;
}

async function runCheck(program: string, args: string[]): Promise<void> {
  const child: ChildProcess = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr!.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`${program} refuses its configuration:\n${said}`);
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
