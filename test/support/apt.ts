/** Programs that only tests need, from PATH or, where they are missing, from Debian's packages. */
import { aptPrelude, findOnPath, rootPrefix, runQuietly } from "@throughline/local";

/** The program is not on this machine and we could not install it. */
export class NoProgramError extends Error {
  override readonly name = "NoProgramError";
  readonly code = "no_program";
}

const aptScript = `${aptPrelude}
apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 "$0"
`;

/**
 * The path of the first of `names` on PATH. Where there is none, installs `debianPackage` with apt; that may take minutes.
 *
 * @throws {NoProgramError} with a line that says what to do by hand
 */
export async function findProgram(names: readonly string[], debianPackage: string): Promise<string> {
  const found = findOnPath(names);
  if (found !== undefined) return found;
  const byHand = `${debianPackage} is needed by a test: install it`;
  if (findOnPath(["apt-get"]) === undefined) throw new NoProgramError(`${byHand}; apt-get is not here`);
  const asRoot = rootPrefix();
  if (asRoot === undefined) {
    throw new NoProgramError(`${byHand}; apt-get needs root, or sudo without a password`);
  }
  process.stderr.write(
    `${debianPackage} is not installed: installing it with apt-get (once, may take minutes)\n`,
  );
  const failure = await runQuietly([...asRoot, "sh", "-c", aptScript, debianPackage]);
  const installed = findOnPath(names);
  if (installed === undefined) {
    throw new NoProgramError(
      `${byHand}; apt-get could not (${failure ?? `no ${names[0]} on PATH after it`})`,
    );
  }
  return installed;
}
