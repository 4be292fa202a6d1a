export { agents } from "./agents.ts";
export { chat } from "./chat.ts";
export { type Digest, type DigestInput, digest } from "./digest.ts";
export { chatGraph } from "./graphs/chat-graph.ts";
export { research } from "./graphs/research.ts";
export { defaultStory } from "./story.ts";
export { type StorytellerInput, storyteller } from "./storyteller.ts";
export { tokens } from "./tokens.ts";
