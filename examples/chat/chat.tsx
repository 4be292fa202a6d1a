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
  const { threadId = "", edit, regenerate, select } = chat;
  const { status, connection: link } = chat;
  const failure = chat.error ?? ("error" in status ? status.error : undefined);
  const standing = "reason" in link ? link.reason : status.status;
  useEffect(() => history.replaceState(null, "", `#${threadId}`), [threadId]);
  return (
    <form action={(data) => void chat.send(`${data.get("text")}`)}>
      {chat.hasEarlier && <input type="button" value="Earlier messages" onClick={chat.loadEarlier} />}
      {chat.messages.map((message) => (
        <Bubble key={message.id} {...{ message, edit, regenerate, select }} />
      ))}
      {chat.interrupts.map(({ id, value }) => (
        <button type="button" key={id} onClick={() => chat.answer(true, id)}>
          Yes: {JSON.stringify(value)}
        </button>
      ))}
      <p role="status">{failure?.message ?? standing}</p>
      {(failure?.action === "send" || failure?.action === "run") && (
        <button type="button" onClick={() => chat.retry()}>
          Try again
        </button>
      )}
      <input name="text" aria-label="Message" autoComplete="off" required />
      <button type="submit">Send</button>
      <button type="button" onClick={() => chat.stop()}>
        Stop
      </button>
    </form>
  );
}

createRoot(document.getElementById("root")!).render(<Chat />);
