/**
 * The smallest graph that chats: its state is the conversation, its one node asks a model. Without an endpoint in the
 * environment the model is the one that tells a story, and goes on where the conversation has it.
 */
import { Annotation, END, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { agent, type GraphAgent } from "@throughline/worker";
import { chatSettings, type Environment } from "../completion.ts";
import { rateOf } from "./input.ts";
import { EndpointModel, RecitingModel, restOfStory } from "./models.ts";

const State = Annotation.Root({
  ...MessagesAnnotation.spec,
  /** How fast the story is told; a model behind an endpoint has a pace of its own. */
  tokensPerSecond: Annotation<number | undefined>,
});

export function chatGraph(env: Environment = process.env): GraphAgent {
  const settings = chatSettings(env);
  const graph = new StateGraph(State)
    .addNode("model", async ({ messages, tokensPerSecond }, config) => {
      const model =
        settings === undefined
          ? new RecitingModel(restOfStory, rateOf(tokensPerSecond))
          : new EndpointModel(settings);
      // The config has the run's signal, and what carries the tokens out.
      return { messages: [await model.invoke(messages, config)] };
    })
    .addEdge(START, "model")
    .addEdge("model", END)
    .compile();
  return agent(graph, {
    description:
      settings === undefined
        ? "A LangGraph graph that tells a story, and goes on with it"
        : `A LangGraph graph that chats with ${settings.model}`,
  });
}
