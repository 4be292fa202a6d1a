/** The deployment files of infra/ hold together, and with the programs that they start. What runs them is tested elsewhere. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gatewayConfig } from "@throughline/gateway";
import { describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";

const root = fileURLToPath(new URL("../../", import.meta.url));
const read = (path: string) => readFileSync(`${root}${path}`, "utf8");

/** packages/kit's runService: a process is gone this long after its signal. */
const processGraceS = 10;
/** `ws` gives a peer this long to answer a close. */
const closeS = 30;
/** Read by the logger and by Node, in gateways and workers alike. */
const common = new Set(["LOG_LEVEL", "LOG_FORMAT", "NODE_ENV"]);

type Tree = Record<string, unknown>;

function yaml(path: string): Tree[] {
  return parseAllDocuments(read(path), { merge: true }).map((document) => {
    expect(document.errors, path).toEqual([]);
    return document.toJS() as Tree;
  });
}

interface Container {
  image: string;
  securityContext?: Record<string, unknown>;
  command: string[];
  env: { name: string; value?: string }[];
  readinessProbe?: Probe;
  livenessProbe?: Probe;
  lifecycle?: { preStop: { exec: { command: string[] } } };
  ports?: { name: string; containerPort: number }[];
}
interface Probe {
  httpGet: { path: string; port: string };
}
interface Pod {
  automountServiceAccountToken?: boolean;
  securityContext?: Record<string, unknown>;
  terminationGracePeriodSeconds: number;
  containers: [Container];
}

const kubernetes = readdirSync(`${root}infra/k8s`).flatMap((file) => yaml(`infra/k8s/${file}`));
function object<T>(kind: string, name: string): T {
  const found = kubernetes.find(
    (each) => each.kind === kind && (each.metadata as { name?: string }).name === name,
  );
  if (found === undefined) throw new Error(`there is no ${kind} ${name}`);
  return found as T;
}
function podOf(deployment: string): Pod {
  return object<{ spec: { template: { spec: Pod } } }>("Deployment", deployment).spec.template.spec;
}

interface Service {
  command?: string[];
  environment?: Record<string, string>;
  stop_grace_period?: string;
  deploy?: { replicas: number };
}
const [compose] = yaml("infra/compose.yaml") as unknown as [{ services: Record<string, Service> }];

/** Every name is one that the gateway reads, and it takes the values. Secrets are filled in. */
function expectGatewayEnv(given: Record<string, string>): void {
  const env = gatewayConfig({ ...given, REDIS_URL: "redis://redis:6379", JWT_SECRET: "s".repeat(32) });
  for (const name of Object.keys(given)) {
    if (!common.has(name)) expect(env).toHaveProperty(name);
  }
  // It is told to go, its clients have moved, its sockets are closed: all before the process has to end.
  expect(env.DRAIN_MS + 2_000).toBeLessThan(processGraceS * 1_000);
}

function expectWorkerEnv(names: string[]): void {
  const source = read("apps/worker/src/main.ts");
  for (const name of names) {
    if (!common.has(name)) expect(source).toMatch(new RegExp(`^ +${name}:`, "m"));
  }
}

/** `node`, and what a source file of ours is compiled to. */
function expectProgram([node, file = "", ...rest]: string[]): void {
  expect([node, rest]).toEqual(["node", []]);
  expect(existsSync(`${root}${file.replace("/dist/", "/src/").replace(/\.js$/, ".ts")}`), file).toBe(true);
}

function envOf({ env }: Container): Record<string, string> {
  return Object.fromEntries(env.map(({ name, value }) => [name, value ?? ""]));
}

describe("Kubernetes", () => {
  test("the gateway's settings, probes and grace are what the program knows", () => {
    const { terminationGracePeriodSeconds, containers } = podOf("throughline-gateway");
    const [gateway] = containers;
    expectProgram(gateway.command);
    expectGatewayEnv(envOf(gateway));
    expect(gateway.readinessProbe?.httpGet).toEqual({ path: "/readyz", port: "ws" });
    expect(gateway.livenessProbe?.httpGet).toEqual({ path: "/healthz", port: "ws" });
    expect(gateway.ports).toEqual([{ name: "ws", containerPort: Number(envOf(gateway).PORT) }]);
    const [sleep, seconds] = gateway.lifecycle!.preStop.exec.command;
    expect(sleep).toBe("sleep");
    expect(terminationGracePeriodSeconds).toBeGreaterThan(Number(seconds) + processGraceS);
  });

  test("the worker's settings and grace are what the program knows", () => {
    const { terminationGracePeriodSeconds, containers } = podOf("throughline-worker");
    const [worker] = containers;
    expectProgram(worker.command);
    expectWorkerEnv(Object.keys(envOf(worker)));
    expect(terminationGracePeriodSeconds).toBeGreaterThan(processGraceS);
  });

  test.each(["throughline-gateway", "throughline-worker"])("%s may do nothing that it need not", (name) => {
    const { automountServiceAccountToken, securityContext, containers } = podOf(name);
    expect(automountServiceAccountToken).toBe(false);
    expect(securityContext).toMatchObject({ runAsNonRoot: true, seccompProfile: { type: "RuntimeDefault" } });
    expect(containers[0].securityContext).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
    });
    expect(containers[0].image).not.toMatch(/:latest$|^[^:@]+$/);
  });

  test("labels, names and ports find each other", () => {
    for (const name of ["throughline-gateway", "throughline-worker"]) {
      const deployment = object<{ spec: { selector: unknown; template: { metadata: { labels: unknown } } } }>(
        "Deployment",
        name,
      );
      const budget = object<{ spec: { selector: unknown } }>("PodDisruptionBudget", name);
      expect(deployment.spec.selector).toEqual({ matchLabels: deployment.spec.template.metadata.labels });
      expect(budget.spec.selector).toEqual(deployment.spec.selector);
    }
    const service = object<{ spec: { selector: unknown; ports: { name: string; targetPort: string }[] } }>(
      "Service",
      "throughline-gateway",
    );
    expect(service.spec.selector).toEqual({ app: "throughline-gateway" });
    expect(service.spec.ports).toMatchObject([{ name: "ws", targetPort: "ws" }]);
    expect(JSON.stringify(object("Ingress", "throughline"))).toContain(
      '"path":"/v1/ws","pathType":"Exact","backend":{"service":{"name":"throughline-gateway","port":{"name":"ws"}}}',
    );
  });
});

test("nginx, HAProxy and the Ingress outwait the gateway, and all by the same time", () => {
  const { HEARTBEAT_MS, SLOW_SOCKET_MS } = gatewayConfig({});
  const annotations = object<{ metadata: { annotations: Record<string, string> } }>("Ingress", "throughline")
    .metadata.annotations;
  const seconds = [
    /proxy_read_timeout (\d+)s/.exec(read("infra/nginx/throughline.conf"))?.[1],
    /proxy_send_timeout (\d+)s/.exec(read("infra/nginx/throughline.conf"))?.[1],
    /[^_]send_timeout (\d+)s/.exec(read("infra/nginx/throughline.conf"))?.[1],
    /timeout tunnel (\d+)s/.exec(read("infra/haproxy/haproxy.cfg"))?.[1],
    annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"],
    annotations["nginx.ingress.kubernetes.io/proxy-send-timeout"],
  ].map(Number);
  expect(new Set(seconds).size).toBe(1);
  expect(seconds[0]).toBeGreaterThan(SLOW_SOCKET_MS / 1_000 + closeS);
  expect(seconds[0]).toBeGreaterThan((2 * HEARTBEAT_MS) / 1_000);
});

test("every proxy tells the client's address, and gateways behind one count on it", () => {
  const frontend = /^frontend throughline\n((?: +.*\n|\n)+)/m.exec(read("infra/haproxy/haproxy.cfg"))![1]!;
  expect(frontend).toMatch(/^ +http-request del-header X-Forwarded-For$/m);
  expect(frontend).toMatch(/^ +option forwardfor$/m);
  expect(read("infra/nginx/throughline.conf")).toContain(
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
  );
  expect(envOf(podOf("throughline-gateway").containers[0]).TRUST_PROXY).toBe("1");
  for (const name of ["gateway-1", "gateway-2"]) {
    expect(compose.services[name]!.environment!.TRUST_PROXY).toBe("1");
  }
});

test("nginx logs no request line of a socket, where a token may be", () => {
  const config = read("infra/nginx/throughline.conf");
  const location = /location = \/v1\/ws \{\n([^}]*)\}/.exec(config)![1]!;
  expect(location).toMatch(/^ +access_log off;$/m);
  expect(location).toMatch(/^ +error_log \S+ crit;$/m);
});

describe("compose", () => {
  const { redis, worker, nginx, ...gateways } = compose.services;

  test("has two gateways and two workers, with settings that the programs know", () => {
    expect(Object.keys(gateways)).toEqual(["gateway-1", "gateway-2"]);
    for (const gateway of Object.values(gateways)) {
      expectGatewayEnv(gateway.environment!);
      expect(Number.parseInt(gateway.stop_grace_period!, 10)).toBeGreaterThan(processGraceS);
    }
    expect(worker!.deploy?.replicas).toBe(2);
    expectProgram(worker!.command!);
    expectWorkerEnv(Object.keys(worker!.environment!));
    expect(Number.parseInt(worker!.stop_grace_period!, 10)).toBeGreaterThan(processGraceS);
  });

  test("its Redis keeps what it is given", () => {
    const command = redis!.command!.join(" ");
    expect(command).toContain("--appendonly yes");
    expect(command).toContain("--maxmemory-policy noeviction");
  });

  test("its nginx finds the gateways", () => {
    const config = read("infra/nginx/throughline.conf");
    const script = nginx!.command!.join(" ");
    const addresses = [...config.matchAll(/server (127\.0\.0\.1:\d+)/g)].map(([, address]) => address!);
    expect(addresses).toHaveLength(2);
    for (const [i, address] of addresses.entries()) {
      const service = `gateway-${i + 1}`;
      expect(script).toContain(`s/${address}/${service}:${gateways[service]!.environment!.PORT}/`);
    }
  });
});

test("the image starts a gateway where nothing else is said", () => {
  const dockerfile = read("infra/Dockerfile");
  expectProgram(JSON.parse(/^CMD (.*)$/m.exec(dockerfile)![1]!));
  expect(dockerfile).toMatch(/^ARG NODE=node:2[2-9]-/m);
  expect(dockerfile).toMatch(/^USER \d+:\d+$/m);
  expect(dockerfile).not.toMatch(/--chown/);
  // A path in the image is one of the repository.
  expect(dockerfile).toMatch(/COPY --from=build \/throughline \.\/$/m);
});
