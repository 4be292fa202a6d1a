/**
 * Mutants of a Lua script: each is the script with one small thing changed that a test should notice. Comments are left
 * alone, and so are the names of Redis commands: a script with a wrong one fails whatever it is for.
 */
export interface Mutant {
  /** From 1. */
  line: number;
  /** What was changed, in a few words. */
  what: string;
  /** The whole script. */
  text: string;
}

interface Token {
  kind: "name" | "number" | "string" | "operator";
  text: string;
  at: number;
}

const operators: Record<string, readonly string[]> = {
  "==": ["~="],
  "~=": ["=="],
  "<": ["<=", ">="],
  ">": [">=", "<="],
  "<=": ["<", ">"],
  ">=": [">", "<"],
  "+": ["-"],
  "-": ["+"],
  "*": ["/"],
  "/": ["*"],
  and: ["or"],
  or: ["and"],
  not: [""],
  true: ["false"],
  false: ["true"],
};

export function mutantsOf(script: string): Mutant[] {
  const mutants: Mutant[] = [];
  const change = (from: number, to: number, by: string, what: string) => {
    const line = script.slice(0, from).split("\n").length;
    mutants.push({ line, what, text: script.slice(0, from) + by + script.slice(to) });
  };
  const tokens = tokensOf(script);
  for (const [i, token] of tokens.entries()) {
    const { at, text, kind } = token;
    const end = at + text.length;
    for (const other of operators[text] ?? []) {
      if (kind === "string" || isUnaryMinus(tokens, i)) continue;
      change(at, end, other, other === "" ? `without ${text}` : `${text} is ${other}`);
    }
    if (kind === "number" && !isIndex(tokens, i))
      change(at, end, String(Number(text) + 1), `${text} is ${Number(text) + 1}`);
    if (kind === "string" && !isCommand(tokens, i)) {
      const other = text === "''" ? "'mutant'" : "''";
      change(at, end, other, `${text} is ${other}`);
    }
    if ((text === "if" || text === "elseif" || text === "while") && kind === "name") {
      const until = tokens.findIndex((each, j) => j > i && (each.text === "then" || each.text === "do"));
      const [from, to] = [end, tokens[until]!.at];
      change(from, to, " false ", `${text} false`);
      // One that never ends says nothing about the tests.
      if (text !== "while") change(from, to, " true ", `${text} true`);
    }
  }
  for (const { from, to, text } of statementsOf(script)) change(from, to, "", `without ${text}`);
  return mutants;
}

function tokensOf(script: string): Token[] {
  const tokens: Token[] = [];
  const pattern =
    /--[^\n]*|(?<string>'(?:\\.|[^'\\])*')|(?<number>\b\d+\b)|(?<name>[A-Za-z_]\w*)|(?<operator>==|~=|<=|>=|\.\.|[-+*/#<>=.,;:()[\]{}])/g;
  for (const match of script.matchAll(pattern)) {
    const kind = Object.keys(match.groups!).find((each) => match.groups![each] !== undefined);
    if (kind !== undefined) tokens.push({ kind: kind as Token["kind"], text: match[0], at: match.index });
  }
  return tokens;
}

function isUnaryMinus(tokens: readonly Token[], i: number): boolean {
  if (tokens[i]!.text !== "-") return false;
  const before = tokens[i - 1];
  return before === undefined || /^(return|and|or|not|[=(,{]|==|~=|<|>)$/.test(before.text);
}

/** Whether this number says which of a list: another one says nothing that a script would get far with. */
function isIndex(tokens: readonly Token[], i: number): boolean {
  return tokens[i - 1]?.text === "[" && tokens[i + 1]?.text === "]";
}

/** Whether this string is the first argument of redis.call. */
function isCommand(tokens: readonly Token[], i: number): boolean {
  return tokens[i - 1]?.text === "(" && /^p?call$/.test(tokens[i - 2]?.text ?? "");
}

/** Statements that can be left out: calls of Redis, assignments, and conditions that stand on one line. */
function statementsOf(script: string): { from: number; to: number; text: string }[] {
  const found: { from: number; to: number; text: string }[] = [];
  const starts = /^[ \t]*((?:redis\.call\(|if .* end$|(?!local )[\w.]+(?:\[[^\n]*?\])? = ))/gm;
  for (const match of script.matchAll(starts)) {
    const from = match.index + match[0].length - match[1]!.length;
    let to = script.indexOf("\n", from);
    // To the end of a line on which all brackets are closed.
    while (to >= 0 && depthOf(script.slice(from, to)) > 0) to = script.indexOf("\n", to + 1);
    if (to < 0) to = script.length;
    found.push({ from, to, text: script.slice(from, to).replace(/\s+/g, " ") });
  }
  return found;
}

function depthOf(text: string): number {
  const code = text.replace(/'(?:\\.|[^'\\])*'/g, "").replace(/--[^\n]*/g, "");
  return [...code].reduce(
    (depth, each) => depth + ("({[".includes(each) ? 1 : ")}]".includes(each) ? -1 : 0),
    0,
  );
}
