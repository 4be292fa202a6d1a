import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  backoff,
  backoffDelay,
  type CloseAction,
  closeAction,
  closeCodes,
  errorCodes,
  ProtocolError,
} from "./errors.ts";

describe("closeAction", () => {
  const actions: Record<keyof typeof closeCodes, CloseAction> = {
    normal: "reconnect",
    goingAway: "reconnect",
    frameTooLarge: "stop",
    restarting: "reconnect",
    overloaded: "reconnect",
    badFrame: "stop",
    badToken: "refresh-token",
    forbidden: "stop",
    noProgress: "reconnect",
    rateLimited: "reconnect",
  };
  it.each(Object.entries(actions))("after %s: %s", (name, action) => {
    expect(closeAction(closeCodes[name as keyof typeof closeCodes])).toBe(action);
  });

  it("comes back after a code that the protocol does not list: the network went away, or a proxy closed", () => {
    const listed: number[] = Object.values(closeCodes);
    fc.assert(
      fc.property(fc.integer({ min: 1000, max: 4999 }), (code) => {
        if (!listed.includes(code)) expect(closeAction(code)).toBe("reconnect");
      }),
    );
  });
});

describe("backoffDelay", () => {
  const attempt = fc.nat(100_000);
  const share = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
  const ceiling = (n: number) => Math.min(20_000, 500 * 2 ** n);

  it("is full jitter: uniform up to a ceiling that doubles from 0.5 s to 20 s", () => {
    expect(backoff).toEqual({ minMs: 500, maxMs: 20_000 });
    fc.assert(
      fc.property(attempt, share, (n, random) => {
        const delay = backoffDelay(n, () => random);
        expect(delay).toBe(Math.max(50, random * ceiling(n)));
      }),
    );
    const almost = () => 1 - Number.EPSILON;
    expect([0, 1, 2, 3, 4, 5, 6, 7].map((n) => Math.round(backoffDelay(n, almost)))).toEqual([
      500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000,
    ]);
  });

  it("never is a hot loop, however the dice fall", () => {
    fc.assert(
      fc.property(attempt, (n) => {
        expect(backoffDelay(n, () => 0)).toBe(50);
      }),
    );
  });

  it("spreads a fleet over the whole range", () => {
    const delays = Array.from({ length: 2_000 }, () => backoffDelay(10));
    for (let tenth = 0; tenth < 10; tenth++) {
      const inTenth = delays.filter((delay) => Math.floor(delay / 2_000) === tenth).length;
      expect(inTenth).toBeGreaterThan(100); // 200 are expected; 100 is eight standard deviations off.
    }
  });
});

describe("ProtocolError", () => {
  it.each(Object.entries(errorCodes))("%s says whether to try again", (code, { retryable }) => {
    const error = new ProtocolError(code as keyof typeof errorCodes, "why", { a: 1 });
    expect(error).toMatchObject({
      name: "ProtocolError",
      code,
      message: "why",
      retryable,
      details: { a: 1 },
    });
  });

  it("takes a code of a later version for final", () => {
    expect(new ProtocolError("of_version_2" as never, "why").retryable).toBe(false);
  });

  it("is retryable where the same command may succeed later, and nowhere else", () => {
    const retryable = Object.entries(errorCodes).filter(([, each]) => each.retryable);
    expect(retryable.map(([code]) => code).sort()).toEqual(["rate_limited", "thread_busy", "unavailable"]);
  });
});
