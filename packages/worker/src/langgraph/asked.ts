/**
 * The messages that a graph's input brings, under ids that every attempt gives them alike: so log and checkpoints have the
 * same, whichever attempt wrote them.
 *
 * Invariant: a graph's input is changed only where its state makes messages of it anyway. What its author's own reducers,
 * or a function, get as it came stays as it came.
 */
import { BaseMessage } from "@langchain/core/messages";
import { type Channel, channelOf, type GraphInside } from "@throughline/checkpoint";
import type { RunRequest } from "@throughline/dispatch";
import type { FlatMessage } from "@throughline/protocol";
import { isRecord } from "@throughline/protocol";
import { inputMessages, withIds } from "../state.ts";

/** The input as the graph gets it. */
export function namedInput(graph: GraphInside, { input }: Pick<RunRequest, "input">, runId: string): unknown {
  const channel = channelOf(graph, "messages");
  if (channel === undefined) return input;
  if (typeof input === "string")
    return { messages: [{ role: "user", content: input, id: `${runId}-input-0` }] };
  const isGiven = isRecord(input) && Object.hasOwn(input, "messages") && input.messages !== null;
  if (!isGiven || !makesMessages(channel)) return input;
  return { ...input, messages: withIds(input.messages, runId) };
}

/**
 * The messages that readers are told of: all that the input brings, or none where the thread will not have them under the
 * ids that are known now.
 */
export function askedOf(graph: GraphInside | undefined, request: RunRequest, runId: string): FlatMessage[] {
  if (request.command !== undefined) return [];
  // Its factory failed, and so does the run: what is kept aside of it has them so.
  if (graph === undefined) return readable(request.input, runId).filter(({ type }) => type !== "remove");
  const named = namedInput(graph, request, runId);
  if (!isRecord(named) || channelOf(graph, "messages") === undefined) return [];
  const messages = [named.messages ?? []].flat(1);
  if (!messages.every((each) => isRecord(each) && typeof each.id === "string")) return [];
  return readable(named, runId).filter(({ type }) => type !== "remove");
}

/** As many messages as the input brings; none where it brings anything else. */
export function readable(input: unknown, runId: string): FlatMessage[] {
  try {
    return inputMessages(input, runId);
  } catch {
    return [];
  }
}

const probed = new WeakMap<Channel, boolean>();

/** Whether a state makes messages, with the ids that they come with, of what is written to it: its reducer is asked. */
function makesMessages(channel: Channel): boolean {
  let makes = probed.get(channel);
  if (makes === undefined) {
    makes = probe(channel);
    probed.set(channel, makes);
  }
  return makes;
}

function probe(channel: Channel): boolean {
  const id = "probe";
  try {
    const empty = channel.fromCheckpoint(undefined);
    empty.update([[{ role: "user", content: "", id }]]);
    const made = empty.get();
    return Array.isArray(made) && made.some((each) => BaseMessage.isInstance(each) && each.id === id);
  } catch {
    return false; // It takes no messages.
  }
}
