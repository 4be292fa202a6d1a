import { expect, test } from "vitest";
import { FairTurns, type Taker } from "./fair-turns.ts";

class Socket implements Taker {
  readonly name: string;
  readonly principal: { id: string };
  writable = true;
  closed = false;
  #drain: (() => void) | undefined;
  constructor(name: string, owner = name) {
    this.name = name;
    this.principal = { id: owner };
  }
  drained(): Promise<void> {
    if (this.writable) return Promise.resolve();
    return new Promise((resolve) => {
      this.#drain = resolve;
    });
  }
  drain(): void {
    this.writable = true;
    this.#drain?.();
  }
}

/** Turns whose work ends when it is told to. */
class Desk {
  readonly turns: FairTurns;
  /** Who had a turn, in order. */
  readonly begun: string[] = [];
  readonly #ends: (() => void)[] = [];
  readonly answers: Promise<string>[] = [];

  constructor(atOnce: number, maxWaiting = 100) {
    this.turns = new FairTurns(atOnce, maxWaiting);
  }

  ask(socket: Socket, count = 1): void {
    for (let i = 0; i < count; i++) {
      const work = async () => {
        this.begun.push(socket.name);
        await new Promise<void>((resolve) => this.#ends.push(resolve));
        return socket.name;
      };
      this.answers.push(this.turns.take(socket, work).catch((error) => error.code));
    }
  }

  async nextTurns(): Promise<void> {
    for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
  }

  /** Ends what is under way, until nothing is. */
  async finish(): Promise<void> {
    await this.nextTurns();
    while (this.#ends.length > 0) {
      this.#ends.shift()!();
      await this.nextTurns();
    }
  }

  /** How many are under way. */
  get now(): number {
    return this.#ends.length;
  }
}

const [a, b, c] = [new Socket("a"), new Socket("b"), new Socket("c")];

test("so many are under way at once, and all are done in the end", async () => {
  const desk = new Desk(3);
  desk.ask(a, 10);
  await desk.nextTurns();
  expect(desk.now).toBe(3);
  await desk.finish();
  expect(await Promise.all(desk.answers)).toEqual(Array(10).fill("a"));
});

test("sockets take turns: one that asks for many delays another by one", async () => {
  const desk = new Desk(1);
  desk.ask(a, 5);
  desk.ask(b, 2);
  desk.ask(c);
  await desk.finish();
  expect(desk.begun.join("")).toBe("aabcabaa");
});

test("owners take turns: many sockets of one delay another's by one, and each other", async () => {
  const desk = new Desk(1);
  const [p, q, r] = ["p", "q", "r"].map((name) => new Socket(name, "many"));
  desk.ask(p!, 3);
  desk.ask(q!, 2);
  desk.ask(r!, 2);
  desk.ask(a, 3);
  await desk.finish();
  expect(desk.begun.join("")).toBe("ppaqarapqr");
});

test("an owner's socket that has gone, or takes nothing, costs the owner no turn", async () => {
  const desk = new Desk(1);
  const [gone, slow, ready] = ["g", "s", "r"].map((name) => new Socket(name, "many"));
  desk.ask(b);
  for (const socket of [gone, slow, ready]) desk.ask(socket!, 2);
  desk.ask(a, 2);
  gone!.closed = true;
  slow!.writable = false;
  await desk.finish();
  expect(desk.begun.join("")).toBe("brara");
  slow!.drain();
  await desk.finish();
  expect(desk.begun.join("")).toBe("brarass");
});

test("over the limit an owner has one share, on however many sockets, and each of them has one of that", async () => {
  const desk = new Desk(1, 8);
  const [p, q] = ["p", "q"].map((name) => new Socket(name, "many"));
  desk.ask(p!, 1 + 8);
  desk.ask(q!, 5);
  desk.ask(a, 5);
  await desk.finish();
  const answers = await Promise.all(desk.answers);
  expect(answers.slice(0, 9)).toEqual(Array(9).fill("p"));
  expect(answers.slice(9, 14)).toEqual([...Array(4).fill("q"), "rate_limited"]);
  expect(answers.slice(14)).toEqual([...Array(4).fill("a"), "rate_limited"]);
});

test("what fails gives its turn back", async () => {
  const turns = new FairTurns(1, 10);
  await expect(turns.take(a, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect(await turns.take(a, async () => "yes")).toBe("yes");
});

test("a socket that has not taken its answers has no turn until it has, and others do", async () => {
  const desk = new Desk(1);
  const slow = new Socket("s");
  slow.writable = false;
  desk.ask(slow, 2);
  desk.ask(a, 2);
  await desk.finish();
  expect(desk.begun.join("")).toBe("aa");
  desk.ask(slow);
  slow.drain();
  await desk.finish();
  expect(desk.begun.join("")).toBe("aasss");
});

test("what a socket waits for that has gone is not done", async () => {
  const desk = new Desk(1);
  const gone = new Socket("g");
  desk.ask(a);
  desk.ask(gone, 3);
  desk.ask(b);
  gone.closed = true;
  await desk.finish();
  expect(desk.begun.join("")).toBe("ab");
  expect(await Promise.all(desk.answers)).toEqual(["a", "unavailable", "unavailable", "unavailable", "b"]);
});

test("over the limit who has more than a share is refused, and who has less is not", async () => {
  const desk = new Desk(1, 8);
  desk.ask(a, 1 + 8);
  desk.ask(a, 3);
  desk.ask(b, 5);
  for (let i = 0; i < 20; i++) desk.ask(new Socket("x"));
  await desk.finish();
  const answers = await Promise.all(desk.answers);
  expect(answers.slice(0, 12)).toEqual([...Array(9).fill("a"), ...Array(3).fill("rate_limited")]);
  expect(answers.slice(12, 17)).toEqual([...Array(4).fill("b"), "rate_limited"]);
  expect(answers.slice(17)).toEqual(Array(20).fill("x"));
  // There is room again.
  desk.ask(a);
  await desk.finish();
  expect(await desk.answers.at(-1)).toBe("a");
});
