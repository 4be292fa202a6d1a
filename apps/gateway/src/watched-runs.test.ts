import { ProtocolError, type RunStatus, type ThreadEvent } from "@throughline/protocol";
import { describe, expect, test } from "vitest";
import { Gate } from "../../../test/support/agents.ts";
import { until } from "../../../test/support/until.ts";
import { Batch } from "./batch.ts";
import { type Known, WatchedRuns } from "./watched-runs.ts";

/** What becomes of runs: subscribed in this order, and from where. */
class Socket {
  readonly subscribed: string[] = [];
  readonly failures: unknown[] = [];
  active: string[] = [];
  isOver = false;
  /** What the next subscriptions fail with. */
  readonly failing: Error[] = [];
  gate: Gate | undefined;

  watch(known: Record<string, Known> = {}): WatchedRuns {
    const subscribe = async (runId: string, { after, epoch }: Known) => {
      const error = this.failing.shift();
      if (error !== undefined) throw error;
      this.subscribed.push(`${runId} ${after}${epoch === undefined ? "" : ` ${epoch}`}`);
      await this.gate?.passed;
    };
    return new WatchedRuns(
      {
        subscribe,
        active: async () => this.active,
        onFailure: (error) => this.failures.push(error),
        isOver: () => this.isOver,
      },
      known,
    );
  }

  async has(...subscribed: string[]): Promise<void> {
    await until(() => this.subscribed.length >= subscribed.length, 5_000, subscribed.join(", "));
    expect(this.subscribed).toEqual(subscribed);
  }
}

let offset = 0;
/** A batch that tells of runs: `<runId> <status>`. */
function told(...runs: string[]): [Batch, number] {
  const events = runs.map((each) => {
    const [runId, status] = each.split(" ") as [string, RunStatus];
    return { event: "run", run: { runId, agent: "a", status } } as ThreadEvent;
  });
  const first = offset + 1;
  offset += events.length;
  const body = `[${events.map((event) => JSON.stringify(event)).join(",\n")}]`;
  return [new Batch(first, offset, "e", false, Buffer.from(body)), first];
}

describe("P1: a watch subscribes", () => {
  test("to what is in line, and to what comes, once each and in order, however often it is told of", async () => {
    const socket = new Socket();
    const runs = socket.watch();
    runs.take(["r1", "r2"]);
    runs.onSent(...told("r2 queued", "r3 queued", "r1 running"));
    runs.onSent(...told("r1 completed", "r3 running"));
    await socket.has("r1 0", "r2 0", "r3 0");
  });

  test("only to what is sent: what its socket has of a batch already is not looked at", async () => {
    const socket = new Socket();
    const [batch, first] = told("r1 queued", "r2 queued");
    socket.watch().onSent(batch, first + 1);
    await socket.has("r2 0");
  });

  test("from where the client is, in what it knows, also where it ended meanwhile; and once", async () => {
    const socket = new Socket();
    const runs = socket.watch({ r1: { after: 7, epoch: "e7" }, r2: { after: 3 } });
    runs.onSent(...told("r1 completed", "r4 completed", "r2 running"));
    // Nothing that is told of it later, by a log that was repeated, begins it again.
    runs.onSent(...told("r1 completed", "r2 completed"));
    runs.take(["r5"]);
    await socket.has("r1 7 e7", "r2 3", "r5 0");
  });

  test("to a run that lives again after its end, from its beginning, under an epoch that no log has", async () => {
    const socket = new Socket();
    const runs = socket.watch();
    runs.onSent(...told("r1 queued", "r1 completed", "r2 queued", "r1 running"));
    await socket.has("r1 0", "r2 0", "r1 0 ");
    // It ended among the events that were passed over, and comes once more.
    socket.active = ["r2", "r3"];
    runs.onReset();
    await socket.has("r1 0", "r2 0", "r1 0 ", "r3 0");
    runs.onSent(...told("r1 running", "r2 running"));
    await socket.has("r1 0", "r2 0", "r1 0 ", "r3 0", "r1 0 ");
  });

  test("after a reset, to what was passed over", async () => {
    const socket = new Socket();
    const runs = socket.watch();
    runs.take(["r1", "r2"]);
    await socket.has("r1 0", "r2 0");
    socket.active = ["r2", "r3"];
    runs.onReset();
    await socket.has("r1 0", "r2 0", "r3 0");
  });

  test("again where Redis is out of reach; what fails otherwise is passed over, and told", async () => {
    const socket = new Socket();
    const runs = socket.watch();
    const wrong = new TypeError("wrong");
    socket.failing.push(
      new Error("Connection is closed."),
      new ProtocolError("rate_limited", "many wait"),
      wrong,
    );
    runs.take(["r1", "r2"]);
    await socket.has("r2 0");
    expect(socket.failures).toEqual([wrong]);
  });

  test("to nothing any more once it is over", async () => {
    const socket = new Socket();
    socket.gate = new Gate();
    const runs = socket.watch();
    runs.take(["r1", "r2"]);
    await socket.has("r1 0");
    socket.isOver = true;
    socket.gate.open();
    runs.take(["r3"]);
    await socket.gate.passed;
    await new Promise((resolve) => setImmediate(resolve));
    await socket.has("r1 0");
  });
});
