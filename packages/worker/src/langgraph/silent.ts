/**
 * Which functions never write messages, by their text: a node that answers with other keys only has a model say things
 * that are no part of the conversation. Where that cannot be told for certain, the function may write them.
 */
import { type Function as AcornFunction, type AnyNode, type Expression, parse } from "acorn";

// biome-ignore lint/complexity/noBannedTypes: it is not called, only read.
type AnyFunction = Function;

const known = new WeakMap<AnyFunction, boolean>();

/** Whether all that a function returns are literals without the key `messages`: updates, or commands with one. */
export function neverWritesMessages(run: AnyFunction): boolean {
  let isSilent = known.get(run);
  if (isSilent === undefined) {
    const parsed = parseFunction(Function.prototype.toString.call(run));
    isSilent = parsed !== undefined && isSilentFunction(parsed);
    known.set(run, isSilent);
  }
  return isSilent;
}

function parseFunction(text: string): AcornFunction | undefined {
  // A method's text is one only inside of an object.
  for (const source of [`(${text})`, `({${text}})`]) {
    try {
      const [statement] = parse(source, { ecmaVersion: "latest", sourceType: "module" }).body;
      let found = statement?.type === "ExpressionStatement" ? (statement.expression as AnyNode) : undefined;
      if (found?.type === "ObjectExpression") {
        const [property] = found.properties;
        found = property?.type === "Property" ? property.value : undefined;
      }
      if (found?.type === "FunctionExpression" || found?.type === "ArrowFunctionExpression") return found;
    } catch {
      // Native code, or the other form.
    }
  }
  return undefined;
}

function isSilentFunction({ body, generator }: AcornFunction): boolean {
  if (generator) return false;
  if (body.type !== "BlockStatement") return isSilentValue(body);
  return returnsOf(body).every((returned) => returned === null || isSilentValue(returned));
}

/** What is returned, but by functions inside. */
function returnsOf(node: AnyNode): (Expression | null)[] {
  if (node.type === "ReturnStatement") return [node.argument ?? null];
  if (/Function|Class/.test(node.type)) return [];
  return Object.values(node).flatMap((child: unknown) => [child].flat().filter(isNode).flatMap(returnsOf));
}

function isNode(value: unknown): value is AnyNode {
  return typeof value === "object" && value !== null && "type" in value;
}

function isSilentValue(value: Expression): boolean {
  switch (value.type) {
    case "ObjectExpression":
      return value.properties.every(
        (property) =>
          property.type === "Property" && !property.computed && nameOf(property.key) !== "messages",
      );
    case "NewExpression":
      return isSilentCommand(value.callee, value.arguments as Expression[]);
    case "ConditionalExpression":
      return isSilentValue(value.consequent) && isSilentValue(value.alternate);
    case "LogicalExpression":
      return isSilentValue(value.left) && isSilentValue(value.right);
    case "SequenceExpression":
      return isSilentValue(value.expressions.at(-1)!);
    case "AwaitExpression":
      return isSilentValue(value.argument);
    case "Literal":
      return value.value === null;
    case "Identifier":
      return value.name === "undefined";
    case "UnaryExpression":
      return value.operator === "void";
    default:
      return false;
  }
}

/** `new Command({update: {…}})`, however the import of it is written. */
function isSilentCommand(callee: AnyNode, [fields, ...others]: Expression[]): boolean {
  const name = callee.type === "MemberExpression" ? nameOf(callee.property) : nameOf(callee);
  if (name !== "Command" || others.length > 0 || fields?.type !== "ObjectExpression") return false;
  return fields.properties.every(
    (property) =>
      property.type === "Property" &&
      !property.computed &&
      (nameOf(property.key) !== "update" || isSilentValue(property.value)),
  );
}

function nameOf(key: AnyNode): string | undefined {
  if (key.type === "Identifier") return key.name;
  return key.type === "Literal" ? String(key.value) : undefined;
}
