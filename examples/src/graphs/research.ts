/**
 * Answers a question from texts: plans, asks a person whether to go on, has every text read by a subgraph of its own at
 * the same time, and writes what they found. It has most of what a graph can have, and needs no model: without one the
 * answer is made of the texts' own sentences, and the same question on the same texts has the same answer.
 */
import { HumanMessage, SystemMessage, type ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import {
  Annotation,
  END,
  interrupt,
  type LangGraphRunnableConfig,
  MessagesAnnotation,
  Send,
  START,
  StateGraph,
} from "@langchain/langgraph";
import { agent, type Graph, type GraphAgent } from "@throughline/worker";
import { z } from "zod";
import { type ChatSettings, chatSettings, type Environment } from "../completion.ts";
import { InputError, type Message, parseInput, textOf } from "../input.ts";
import { Turn } from "../turn.ts";
import { rateOf } from "./input.ts";
import {
  documentation,
  type Finding,
  readDocument,
  type Source,
  searchText,
  source,
  termsOf,
} from "./library.ts";
import { EndpointModel, RecitingModel } from "./models.ts";

/** Findings of parallel readers are joined; null begins anew. */
const findings = Annotation<Finding[], Finding[] | null>({
  reducer: (left, right) => (right === null ? [] : [...left, ...right]),
  default: () => [],
});

const State = Annotation.Root({
  ...MessagesAnnotation.spec,
  /** Texts to read. Default: this repository's documentation. */
  sources: Annotation<Source[] | undefined>,
  tokensPerSecond: Annotation<number | undefined>,
  question: Annotation<string>,
  /** What is searched for. */
  terms: Annotation<string[]>,
  /** The texts in which. */
  titles: Annotation<string[]>,
  approved: Annotation<boolean>,
  findings,
});
type State = typeof State.State;

/** What one reader works on, and what it finds. */
const Reading = Annotation.Root({
  title: Annotation<string>,
  /** Left out where the text is a file of the documentation. */
  text: Annotation<string | undefined>,
  terms: Annotation<string[]>,
  found: Annotation<Finding[]>,
  findings,
});
type Reading = typeof Reading.State;

/** What a person may answer to the plan. */
const answer = z.union([
  z.boolean().transform((approved) => ({ approved, sources: undefined })),
  z.enum(["yes", "no"]).transform((word) => ({ approved: word === "yes", sources: undefined })),
  z.object({ sources: z.array(z.string()).min(1) }).transform(({ sources }) => ({ approved: true, sources })),
]);
const answers = 'true, false, or {"sources": […]} with some of the titles';

const given = z.object({ sources: z.array(source).min(1).optional() });

async function plan(state: State, { writer }: LangGraphRunnableConfig): Promise<Partial<State>> {
  const asked = state.messages.findLast((message) => message.getType() === "human");
  const question = asked === undefined ? "" : textOf({ type: "human", content: asked.content } as Message);
  const terms = termsOf(question);
  if (terms.length === 0) {
    throw new InputError(
      "messages: there is no question with a word to search for: send a string, or {messages: […]}",
    );
  }
  const { sources } = parseInput(given, { sources: state.sources });
  const titles = sources?.map(({ title }) => title) ?? (await documentation());
  writer?.({ kind: "progress", step: "plan", terms, of: titles.length });
  return { question, terms, titles, findings: null as never };
}

function approve({ question, terms, titles }: State): Partial<State> {
  const asked = { kind: "approval", question, terms, sources: titles, answers };
  // What is no answer is asked for again.
  for (let problem: string | undefined; ; ) {
    const said: unknown = interrupt(problem === undefined ? asked : { ...asked, problem });
    const parsed = answer.safeParse(said);
    const unknown = parsed.data?.sources?.filter((title) => !titles.includes(title)) ?? [];
    if (parsed.success && unknown.length === 0) {
      return { approved: parsed.data.approved, titles: parsed.data.sources ?? titles };
    }
    problem = parsed.success ? `there is no source ${unknown.join(", ")}` : `the answer is ${answers}`;
  }
}

function readers({ approved, terms, titles, sources }: State): Send[] | "decline" {
  if (!approved) return "decline";
  return titles.map((title) => {
    const text = sources?.find((each) => each.title === title)?.text;
    return new Send("reader", { title, text, terms });
  });
}

async function search(
  { title, text, terms }: Reading,
  config: LangGraphRunnableConfig,
): Promise<Partial<Reading>> {
  const searchIn = tool(
    async ({ terms }) => {
      const turn = new Turn(config.signal ?? new AbortController().signal);
      return JSON.stringify(
        await searchText({ title, text: text ?? (await readDocument(title)) }, terms, turn),
      );
    },
    {
      name: "search",
      description: `Finds the sentences of ${title} that have most of the terms`,
      schema: z.object({ terms: z.array(z.string()) }),
    },
  );
  const call = { type: "tool_call", id: `search ${title}`, name: "search", args: { terms } } as const;
  const said = (await searchIn.invoke(call, config)) as ToolMessage;
  return { found: JSON.parse(said.content as string) as Finding[] };
}

function note({ title, found }: Reading, { writer }: LangGraphRunnableConfig): Partial<Reading> {
  writer?.({ kind: "progress", step: "read", title, found: found.length });
  return { findings: found };
}

const mostQuoted = 8;

/** The best findings of all readers; no two alike, in an order that does not depend on who was faster. */
function best(all: readonly Finding[]): Finding[] {
  const order = (finding: Finding) => `${finding.source}\n${finding.sentence}`;
  const sorted = all.toSorted((a, b) => b.score - a.score || (order(a) < order(b) ? -1 : 1));
  const seen = new Set<string>();
  return sorted.filter(({ sentence }) => !seen.has(sentence) && seen.add(sentence)).slice(0, mostQuoted);
}

function report(question: string, quoted: readonly Finding[]): string {
  if (quoted.length === 0) return `Nothing was found on “${question}”.\n`;
  const lines = quoted.map(({ source, section, sentence }) => `- ${sentence} (${source}, ${section})`);
  return `On “${question}”:\n\n${lines.join("\n")}\n`;
}

function write(settings: ChatSettings | undefined) {
  return async ({ question, findings, tokensPerSecond }: State, config: LangGraphRunnableConfig) => {
    const quoted = best(findings);
    config.writer?.({ kind: "progress", step: "write", quoted: quoted.length });
    const said = report(question, quoted);
    const model =
      settings === undefined || quoted.length === 0
        ? new RecitingModel(() => said, rateOf(tokensPerSecond))
        : new EndpointModel(settings);
    const asked = [
      new SystemMessage(
        "Answer the question from these quotations alone, and name the source of what you say.",
      ),
      new HumanMessage(`${question}\n\n${said}`),
    ];
    return { messages: [await model.invoke(asked, config)] };
  };
}

export function research(env: Environment = process.env): GraphAgent<Graph> {
  const settings = chatSettings(env);
  const reader = new StateGraph(Reading, { output: Annotation.Root({ findings }) })
    .addNode("search", search)
    .addNode("note", note)
    .addEdge(START, "search")
    .addEdge("search", "note")
    .addEdge("note", END)
    .compile();
  const graph = new StateGraph(State)
    .addNode("plan", plan)
    .addNode("approve", approve)
    .addNode("reader", reader)
    .addNode("write", write(settings))
    .addNode("decline", async (_: State, config: LangGraphRunnableConfig) => ({
      messages: [
        await new RecitingModel(() => "The plan was declined; nothing was read.", 0).invoke([], config),
      ],
    }))
    .addEdge(START, "plan")
    .addEdge("plan", "approve")
    .addConditionalEdges("approve", readers, ["reader", "decline"])
    .addEdge("reader", "write")
    .addEdge("write", END)
    .addEdge("decline", END)
    .compile();
  return agent(graph, {
    description: "A LangGraph graph that answers from texts, once you approve its plan",
  });
}
