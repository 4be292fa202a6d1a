/** Which parts a subscription wants, and which events a watch: see PROTOCOL.md, run.subscribe and thread.watch. */

import { isNamed } from "@throughline/checkpoint";
import type { Filter, Part, ThreadEvent, ThreadEventName } from "@throughline/protocol";
import { isRecord } from "@throughline/protocol";
import type { Passes } from "./batch.ts";

/** Whether a part goes to a subscription with this filter. All that the filter names must match. */
export function matches(filter: Filter, part: Part): boolean {
  if (part.type === "lifecycle") return true;
  if (filter.modes !== undefined && !filter.modes.includes(part.type)) return false;
  const prefix = filter.ns ?? [];
  if (!isNamed(part.ns.slice(0, prefix.length), prefix)) return false;
  if (filter.depth !== undefined && part.ns.length - prefix.length > filter.depth) return false;
  if (filter.nodes !== undefined && !nodesOf(part).some((node) => filter.nodes?.includes(node))) return false;
  if (filter.tags !== undefined && !tagsOf(part).some((tag) => filter.tags?.includes(tag))) return false;
  return true;
}

/** What a filter lets through of a run's parts; undefined: all of it. */
export function passingParts(filter: Filter | undefined): Passes | undefined {
  return filter === undefined ? undefined : (part: Part) => matches(filter, part);
}

/** What a list of their names lets through of a thread's events; undefined: all of it. The last event always passes. */
export function passingEvents(names: readonly ThreadEventName[] | undefined): Passes | undefined {
  if (names === undefined) return undefined;
  return ({ event }: ThreadEvent) => event === "deleted" || names.includes(event);
}

/** The nodes that a part is about: that of its metadata, or the keys of an update, or the name of a task. */
function nodesOf(part: Part): string[] {
  if (part.type === "messages") {
    const node = part.data[1].langgraph_node;
    return typeof node === "string" ? [node] : [];
  }
  if (!isRecord(part.data)) return [];
  if (part.type === "updates") return Object.keys(part.data);
  if (part.type === "tasks" && typeof part.data.name === "string") return [part.data.name];
  const metadata = part.data.metadata;
  if (isRecord(metadata) && typeof metadata.langgraph_node === "string") return [metadata.langgraph_node];
  return [];
}

function tagsOf(part: Part): string[] {
  let tags: unknown;
  if (part.type === "messages") tags = part.data[1].tags;
  else if (isRecord(part.data)) tags = part.data.tags;
  return Array.isArray(tags) ? tags.filter((tag): tag is string => typeof tag === "string") : [];
}
