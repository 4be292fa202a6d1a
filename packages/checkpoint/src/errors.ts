/** Another attempt has the thread: nothing was written, and nothing of this attempt's ever will be. */
export class StaleAttemptError extends Error {
  override readonly name = "StaleAttemptError";
  readonly code = "stale_attempt";
  constructor(threadId: string, fence: string) {
    super(`${fence} no longer has thread ${threadId}`);
  }
}

export class NoSuchCheckpointError extends Error {
  override readonly name = "NoSuchCheckpointError";
  readonly code = "no_such_checkpoint";
  constructor(threadId: string, checkpointId: string) {
    super(`thread ${threadId} has no checkpoint ${checkpointId}`);
  }
}

/** The thread has no checkpoints. */
export class NoSuchThreadError extends Error {
  override readonly name = "NoSuchThreadError";
  readonly code = "no_such_thread";
  constructor(threadId: string) {
    super(`there is no thread ${threadId}`);
  }
}

/** The thread to copy to has checkpoints already. */
export class ThreadExistsError extends Error {
  override readonly name = "ThreadExistsError";
  readonly code = "thread_exists";
  constructor(threadId: string) {
    super(`thread ${threadId} has checkpoints already`);
  }
}

/** The head was moved since it was read. Nothing was written: read it again. */
export class HeadMovedError extends Error {
  override readonly name = "HeadMovedError";
  readonly code = "head_moved";
  constructor(threadId: string, expected: string | null) {
    super(`the head of thread ${threadId} is not at ${expected ?? "nothing"} any more`);
  }
}

/** An id, a message or an update that cannot be stored. Nothing was written. */
export class InvalidArgumentError extends Error {
  override readonly name = "InvalidArgumentError";
  readonly code = "invalid_argument";
}
