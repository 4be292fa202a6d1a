/** The order of the test files: the longest first, so that no worker is left alone with one of them at the end. */
import { relative } from "node:path";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Where nothing is known of an earlier run. The longest first. */
const longest = [
  "infra/langgraph-latest/matrix.test.ts",
  "packages/worker/src/langgraph/matrix.test.ts",
  "test/chaos/main.test.ts",
  "test/chaos/storm.test.ts",
  "test/e2e/guide.test.ts",
  "test/conformance/gateway.test.ts",
  "infra/local/src/setup.test.ts",
  "infra/local/src/supervise.test.ts",
  "packages/worker/src/langgraph/takeover.test.ts",
  "test/e2e/freeze.test.ts",
  "test/e2e/start.test.ts",
  "test/e2e/cluster.test.ts",
  "test/e2e/slow-reader.test.ts",
  "test/e2e/redis-away.test.ts",
  "test/e2e/load-balancer.test.ts",
  "packages/worker/src/langgraph/real-graphs.test.ts",
  "packages/worker/src/langgraph/going-on.test.ts",
];

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const { cache, config } = this.ctx;
    const seconds = ({ project, moduleId }: TestSpecification): number => {
      const path = relative(config.root, moduleId);
      const known = cache.getFileTestResults(`${project.name}:${path}`);
      if (known !== undefined) return known.duration / 1_000;
      const rank = longest.indexOf(path);
      return rank < 0 ? 0 : longest.length - rank;
    };
    return [...files].sort((one, other) => seconds(other) - seconds(one));
  }
}
