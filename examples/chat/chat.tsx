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
  useEffect(() => history.replaceState(null, "", `#${threadId}`), [threadId]);
  return (
    <main>
      {chat.hasEarlier && <input type="button" value="Earlier messages" onClick={chat.loadEarlier} />}
      {chat.messages.map((message) => (
        <Bubble key={message.id} {...{ message, edit, regenerate, select }} />
      ))}
      {chat.interrupts.map(({ id, value }) => (
        <button type="button" key={id} onClick={() => chat.answer(true, id)}>
          Yes: {JSON.stringify(value)}
        </button>
      ))}
      <form action={(data) => void chat.send(`${data.get("text")}`)}>
        <input name="text" aria-label="Message" autoComplete="off" />
        <button type="submit">Send</button>
        <button type="button" onClick={() => chat.stop()}>
          Stop
        </button>
        <p role="status">{chat.error?.message ?? chat.status.status}</p>
      </form>
    </main>
  );
}

createRoot(document.getElementById("root")!).render(<Chat />);
