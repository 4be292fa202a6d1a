/** One message, with what can be done about it. It renders again only when it has changed. */
import type { Message } from "@throughline/client/conversation";
import type { ThreadHook } from "@throughline/client/react";
import { memo } from "react";

type Props = { message: Message } & Pick<ThreadHook, "edit" | "regenerate" | "select">;

export const Bubble = memo(({ message, edit, regenerate, select }: Props) => {
  const { type, status, text, branches } = message;
  const isOwn = type === "human";
  const again = () => (isOwn ? edit(message, prompt("Instead:", text) || text) : regenerate(message));
  return (
    <article className={`${type} ${status}`}>
      <span>{text}</span>
      <button type="button" onClick={again}>
        {isOwn ? "Edit" : "Again"}
      </button>
      {[...Array(branches?.count ?? 0).keys()].map((i) => (
        <button type="button" key={i} disabled={i === branches?.index} onClick={() => select(message, i)}>
          {i + 1}
        </button>
      ))}
    </article>
  );
});
