import type { Readable } from "node:stream";
import { createLineFormatter } from "@throughline/kit";

/** One log for many processes: each line after the name of who says it. */
export interface Output {
  line(name: string, text: string): void;
  /** Relays a child's stream; JSON log lines become readable ones. Resolves at the stream's end. */
  relay(name: string, stream: Readable): void;
}

const colors = [36, 33, 35, 32, 34];

export function createOutput(
  names: readonly string[],
  write: (text: string) => void,
  color: boolean,
): Output {
  const width = Math.max(...names.map((name) => name.length));
  const format = createLineFormatter({ color });
  const prefixes = new Map(
    names.map((name, index) => {
      const padded = name.padEnd(width);
      return [name, color ? `\x1b[${colors[index % colors.length]}m${padded}\x1b[0m | ` : `${padded} | `];
    }),
  );
  const line = (name: string, text: string) => {
    const prefix = prefixes.get(name) ?? `${name} | `;
    write(`${prefix}${text.replaceAll("\n", `\n${prefix}`)}\n`);
  };
  return {
    line,
    relay(name, stream) {
      let rest = "";
      stream.setEncoding("utf8");
      stream.on("data", (text: string) => {
        const lines = (rest + text).split("\n");
        rest = lines.pop() ?? "";
        for (const each of lines) if (each !== "") line(name, format(each));
      });
      stream.on("end", () => {
        if (rest !== "") line(name, format(rest));
      });
    },
  };
}
