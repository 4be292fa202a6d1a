/** A whole chat: it streams, stops, branches and asks; it survives reloads, and all its tabs show the same. */
import { connect } from "@throughline/client";
import { useThread } from "@throughline/client/react";
import { useEffect } from "react";
import { createRoot } from "react-dom/client";
import { Bubble } from "./bubble.tsx";

const told = new URLSearchParams(location.search);
const agent = told.get("agent") ?? "chat-graph";
const connection = connect(told.get("gateway") ?? "ws://127.0.0.1:8787/v1/ws");

function Chat() {
  const chat = useThread(connection, { agent, threadId: location.hash.slice(1) || undefined });
  const { threadId = "", status, connection: link, edit, regenerate, select } = chat;
  const failure = chat.error ?? ("error" in status ? status.error : undefined);
  const standing = "reason" in link ? link.reason : status.status;
  useEffect(() => history.replaceState(null, "", `#${threadId}`), [threadId]);
  return (
    <main>
      {chat.hasEarlier && <input type="button" value="Earlier messages" onClick={chat.loadEarlier} />}
      {chat.messages.map((message) => (
        <Bubble key={message.id} {...{ message, edit, regenerate, select }} />
      ))}
      {chat.interrupts.map(({ id, value }) => (
        <input type="button" key={id} value={`Yes: ${value}`} onClick={() => chat.answer(true, id)} />
      ))}
      <form action={(data) => void chat.send(`${data.get("text")}`)}>
        <input name="text" aria-label="Message" autoComplete="off" required />
        <button type="submit">Send</button>
        <input type="button" value="Stop" onClick={() => chat.stop()} />
        <p role="status">{failure?.message ?? standing}</p>
        {failure && <input type="button" value="Try again" onClick={() => chat.retry()} />}
      </form>
    </main>
  );
}

createRoot(document.getElementById("root")!).render(<Chat />);
