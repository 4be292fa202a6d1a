/** P3, P6 with the newest LangGraph: see test/support/stops. */
import { readFileSync } from "node:fs";
import * as chatModels from "@langchain/core/language_models/chat_models";
import * as messages from "@langchain/core/messages";
import * as outputs from "@langchain/core/outputs";
import * as tools from "@langchain/core/tools";
import * as graph from "@langchain/langgraph";
import * as prebuilt from "@langchain/langgraph/prebuilt";
import { expect, test } from "vitest";
import type { Library } from "../../test/support/stops/library.ts";
import { matrix } from "../../test/support/stops/matrix.ts";

// Of another version, so its types are others; what is used of them is the same.
const library = { graph, prebuilt, core: { chatModels, messages, outputs, tools } } as unknown as Library;
matrix("LangGraph 1.7", library);

test("it is another LangGraph than the packages are developed with", () => {
  const versionAt = (path: string): string => {
    const manifest = new URL(`${path}/node_modules/@langchain/langgraph/package.json`, import.meta.url);
    return (JSON.parse(readFileSync(manifest, "utf8")) as { version: string }).version;
  };
  expect(versionAt(".")).toBe("1.7.3");
  expect(versionAt("../..")).toBe("1.4.17");
  // What it is that was imported above: a method that 1.4 does not have.
  const flow = graph.entrypoint("flow", async () => 1);
  expect("_resolveCheckpointer" in flow).toBe(true);
});
