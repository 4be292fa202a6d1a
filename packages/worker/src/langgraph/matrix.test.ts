/** P3, P6: see test/support/stops. With the LangGraph that is pinned here; infra/langgraph-latest has the newest. */
import * as chatModels from "@langchain/core/language_models/chat_models";
import * as messages from "@langchain/core/messages";
import * as outputs from "@langchain/core/outputs";
import * as tools from "@langchain/core/tools";
import * as graph from "@langchain/langgraph";
import * as prebuilt from "@langchain/langgraph/prebuilt";
import { matrix } from "../../../../test/support/stops/matrix.ts";

matrix("LangGraph 1.4", { graph, prebuilt, core: { chatModels, messages, outputs, tools } });
