/**
 * What a log says, read in the plainest way and without a line of the product's own fold: text by message, state,
 * attempts. It knows how the cast signs its parts.
 */
import { type Filter, isEnding, type LifecycleData, type Part } from "@throughline/protocol";

export interface LogPart {
  offset: number;
  part: Part;
}

export interface Story {
  /** Text by message id, in the order in which the messages began. */
  texts: Map<string, string>;
  /** State by key, without messages. */
  values: Record<string, unknown>;
  ending: LifecycleData | undefined;
  /** What no log may look like. */
  problems: string[];
}

/** What the beginning of a log added up to. */
export interface Beginning {
  offset: number;
  texts: ReadonlyMap<string, string>;
  values: unknown;
}

/**
 * Reads a log.
 *
 * @param signed every part says which attempt wrote it, as those of graphs cannot
 * @param beginning what the log goes on from, where it was trimmed and nobody knows what it said
 */
export function readStory(log: readonly LogPart[], signed = true, beginning?: Beginning): Story {
  const problems: string[] = [];
  let kept: LogPart[] = [];
  let base = beginning;
  const before = beginning?.offset ?? 0;
  // Where the beginning is not known, the first part says whose it is.
  let attempt: unknown = beginning === undefined ? 0 : undefined;
  let ending: LifecycleData | undefined;
  for (const [i, { offset, part }] of log.entries()) {
    if (offset !== before + i + 1) problems.push(`offset ${offset} stands where ${before + i + 1} should`);
    if (ending !== undefined) problems.push(`a part at ${offset} comes after the ending ${ending.event}`);
    if (part.type !== "lifecycle") {
      const author = signed ? attemptOf(part) : attempt;
      attempt ??= author;
      if (author !== attempt) {
        problems.push(`attempt ${author} wrote offset ${offset}, when the run was attempt ${attempt}'s`);
      }
      kept.push({ offset, part });
      continue;
    }
    const { data } = part;
    if (isEnding(data.event)) {
      ending = data;
      continue;
    }
    const { attempt: next } = data as { attempt: number };
    if (next <= Number(attempt ?? 0))
      problems.push(`attempt ${next} begins at ${offset}, after attempt ${attempt}`);
    if ((data.event === "started") !== (attempt === 0)) {
      problems.push(`attempt ${next} has ${data.event} at ${offset}, after attempt ${attempt}`);
    }
    attempt = next;
    if (data.event !== "rewound") continue;
    const { to } = data;
    kept = kept.filter((each) => each.offset <= to);
    if (to < before) base = undefined;
  }
  if (ending === undefined) problems.push("there is no ending");
  return { ...addUp(kept, base), ending, problems };
}

/** Whether a subscription with this filter is sent the part. Filters of one criterion only. */
export function isWanted(filter: Filter | undefined, part: Part): boolean {
  if (filter === undefined || part.type === "lifecycle") return true;
  const metadata = part.type === "messages" ? part.data[1] : {};
  if (filter.modes !== undefined) return filter.modes.includes(part.type);
  if (filter.ns !== undefined) return filter.ns.every((segment, i) => part.ns[i] === segment);
  if (filter.depth !== undefined) return part.ns.length <= filter.depth;
  if (filter.tags !== undefined)
    return filter.tags.some((tag) => (metadata.tags as string[] | undefined)?.includes(tag));
  if (filter.nodes === undefined) return true;
  const nodes = part.type === "updates" ? Object.keys(part.data as object) : [metadata.langgraph_node];
  return filter.nodes.some((node) => nodes.includes(node));
}

function attemptOf(part: Part): unknown {
  if (part.type === "messages") return part.data[1].attempt;
  const data = part.data as Record<string, unknown>;
  if (part.type === "updates") return (Object.values(data)[0] as Record<string, unknown>).attempt;
  return data.attempt;
}

function addUp(kept: readonly LogPart[], base: Beginning | undefined): Pick<Story, "texts" | "values"> {
  const texts = new Map(base?.texts);
  const values: Record<string, unknown> = { ...(base?.values as object) };
  for (const { part } of kept) {
    if (part.type === "messages") {
      const { id = "", type, content } = part.data[0];
      // What a tool has answered comes whole.
      if (type !== "tool") texts.set(id, (texts.get(id) ?? "") + String(content));
    } else if (part.type === "updates" && part.ns.length === 0) {
      // A graph says there as well that it waits for a person, and that it tells of a node again.
      const {
        __interrupt__: _,
        __metadata__: __,
        ...deltas
      } = part.data as Record<string, Record<string, unknown>>;
      // What a functional task has returned is not in the state.
      for (const { messages: ___, message, by: ____, ...delta } of Object.values(deltas)) {
        if (message === undefined) Object.assign(values, delta);
      }
    }
  }
  return { texts, values };
}
