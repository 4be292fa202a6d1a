/** A gateway, or the example worker, as a process of its own: the programs that `npm start` runs. */
import { readFileSync } from "node:fs";
import { Program } from "./program.ts";

export class GatewayProcess extends Program {
  readonly port: number;

  private constructor(env: Record<string, string>, port: number) {
    super("apps/gateway/dist/main.js", [], { LOG_FORMAT: "json", ...env, PORT: String(port) });
    this.port = port;
  }

  /** @param port a port that is free; the one of a process that has ended, to come back in its place */
  static async start(env: Record<string, string>, port: number): Promise<GatewayProcess> {
    const gateway = new GatewayProcess(env, port);
    await gateway.says("out", /gateway is up/);
    return gateway;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/v1/ws`;
  }

  async ready(): Promise<number> {
    return (await fetch(`http://127.0.0.1:${this.port}/readyz`)).status;
  }
}

export async function startWorkerProcess(env: Record<string, string>): Promise<Program> {
  const worker = new Program("apps/worker/dist/main.js", [], { LOG_FORMAT: "json", ...env });
  await worker.says("out", /worker is up/);
  return worker;
}

/** Memory of a process in bytes, as Linux counts it: what is in RAM now, and what was there at the most. */
export function residentBytes(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const kib = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status)![1]);
  return { now: kib("VmRSS") * 1024, peak: kib("VmHWM") * 1024 };
}
