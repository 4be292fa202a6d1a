/** What a run's story is told in, and how it ends. */
import {
  type Ending,
  type EventParams,
  type FlatMessage,
  isEnding,
  type LifecycleData,
  type LifecyclePart,
  type Part,
  type RunRecord,
  type UnfinishedCall,
} from "@throughline/protocol";

/** A part and its position in the run's log. */
export interface OffsetPart {
  readonly offset: number;
  readonly part: Part;
}

/**
 * What happens in a run's story, in the order in which it happens:
 * - `part`: the part at `offset`;
 * - `rewound`: the part at `offset` says that a worker goes on from `to`: drop every part above `to` but lifecycle ones;
 * - `skipped`: the filter left out the parts from `offset` to `to`;
 * - `snapshot`: the log was trimmed: this is what offsets 1 to `offset` added up to, as `Fold.from` takes it;
 * - `reset`: the log was replaced: drop everything; offset 1 of the new `epoch` comes next.
 */
export type RunEvent =
  | { readonly kind: "part"; readonly offset: number; readonly part: Part }
  | { readonly kind: "rewound"; readonly offset: number; readonly part: LifecyclePart; readonly to: number }
  | { readonly kind: "skipped"; readonly offset: number; readonly to: number }
  | {
      readonly kind: "snapshot";
      readonly offset: number;
      readonly messages: FlatMessage[];
      readonly values: Record<string, unknown>;
      /** The ids of those messages that are whole. */
      readonly complete: string[];
      /** The tool calls that were being streamed, by the id of their message. */
      readonly calls: Record<string, UnfinishedCall[]>;
      /** The messages that the run's input brought. */
      readonly asked?: FlatMessage[];
    }
  | { readonly kind: "reset"; readonly epoch: string; readonly reason: string };

/** How a run ended: the data of its last part. */
export type EndingData = Extract<LifecycleData, { event: Ending }>;

export function partEvent(offset: number, part: Part): RunEvent {
  if (part.type === "lifecycle" && part.data.event === "rewound") {
    return { kind: "rewound", offset, part, to: part.data.to };
  }
  return { kind: "part", offset, part };
}

export function snapshotEvent(params: EventParams<"run.snapshot">): RunEvent {
  const { offset, messages, values = {}, complete = [], calls = {}, asked = [] } = params;
  return { kind: "snapshot", offset, messages, values, complete, calls, asked };
}

export function isEndingData(data: LifecycleData): data is EndingData {
  return isEnding(data.event);
}

/** The ending part's data, as the record of an ended run tells it. Undefined: the run has not ended. */
export function endingOf(record: RunRecord): EndingData | undefined {
  const { checkpoint, cancel } = record;
  const at = checkpoint === undefined ? {} : { checkpoint };
  switch (record.status) {
    case "completed":
      return { event: "completed", ...at };
    case "interrupted":
      return { event: "interrupted", interrupts: record.interrupts ?? [], ...at };
    case "cancelled": {
      const reason = cancel?.reason === undefined ? {} : { reason: cancel.reason };
      return { event: "cancelled", keep: cancel?.keep ?? "thread", ...reason, ...at };
    }
    case "failed":
      return { event: "failed", error: record.error ?? { name: "Error", message: "the run failed" }, ...at };
    default:
      return undefined;
  }
}
