// Measures one peer: `node peers.mjs PEER JOBS SECONDS`, with DATABASE_URL or REDIS_PORT. Prints one line of JSON.
// A peer has bulk(n), add(), work(handler), drained(n) for when its store has n jobs completed, and once(), one job's way.

import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

const [peer, jobs, seconds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const url = process.env.DATABASE_URL;
const batch = 2_000;

// The configuration of its page on performance.
async function graphile() {
  const { run, makeWorkerUtils, Logger } = await import("graphile-worker");
  const logger = new Logger(() => () => {});
  const utils = await makeWorkerUtils({ connectionString: url, maxPoolSize: 25, logger });
  await utils.migrate();
  const worker = {
    connectionString: url, concurrentJobs: 24, maxPoolSize: 25, logger,
    localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0,
  };
  let runner;
  return {
    bulk: (n) => utils.addJobs(Array.from({ length: n }, () => ({ identifier: "dummy", payload: {} }))),
    add: () => utils.addJob("dummy", {}),
    work: async (handler) => {
      runner = await run({ preset: { worker }, taskList: { dummy: async () => handler(1) } });
    },
    // A completed job is deleted.
    drained: async () => {
      const sql = "SELECT 1 FROM graphile_worker._private_jobs LIMIT 1";
      return (await utils.withPgClient((client) => client.query(sql))).rowCount === 0;
    },
    once: async () => {
      const completed = once(runner.events, "job:complete");
      await utils.addJob("dummy", {});
      await completed;
    },
    stop: () => runner.stop(),
  };
}

// Batches of 100, fetched without a pause while they are full; a queue that notifies only where latency is measured.
async function pgBoss() {
  const { PgBoss } = await import("pg-boss");
  const boss = new PgBoss({ connectionString: url, max: 20, useListenNotify: true });
  boss.on("error", (error) => { throw error; });
  await boss.start();
  await boss.createQueue("plain");
  await boss.createQueue("woken", { notify: true });
  const options = { batchSize: 100, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5, localConcurrency: 2 };
  return {
    bulk: (n) => boss.insert("plain", Array.from({ length: n }, () => ({ data: {} }))),
    add: () => boss.send("plain", {}),
    work: async (handler) => {
      await boss.work("plain", options, async (some) => handler(some.length));
      await boss.work("woken", { ...options, localConcurrency: 1 }, async () => {});
    },
    drained: async (n) => {
      const sql = "SELECT count(*)::int AS n FROM pgboss.job WHERE name = 'plain' AND state = 'completed'";
      return (await boss.getDb().executeSql(sql)).rows[0].n === n;
    },
    // It has no event of a completion: ask for the job until it is completed.
    once: async () => {
      const id = await boss.send("woken", {});
      while ((await boss.getJobById("woken", id)).state !== "completed");
    },
    stop: () => Promise.all([boss.offWork("plain"), boss.offWork("woken")]),
  };
}

async function bullmq() {
  const { Queue, Worker } = await import("bullmq");
  const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT), maxRetriesPerRequest: null };
  const queue = new Queue("dummy", { connection });
  let worker;
  return {
    bulk: (n) => queue.addBulk(Array.from({ length: n }, () => ({ name: "dummy", data: {} }))),
    add: () => queue.add("dummy", {}),
    work: async (handler) => {
      worker = new Worker("dummy", async () => handler(1), { connection, concurrency: 100 });
      await worker.waitUntilReady();
    },
    drained: async (n) => (await queue.getCompletedCount()) === n,
    once: async () => {
      const completed = once(worker, "completed");
      await queue.add("dummy", {});
      await completed;
    },
    stop: () => worker.close(true),
  };
}

async function oneByOne(system) {
  const end = performance.now() + seconds * 1_000;
  let added = 0;
  const client = async () => {
    for (; performance.now() < end; added++) await system.add();
  };
  const begun = performance.now();
  await Promise.all(Array.from({ length: 16 }, client));
  return added / ((performance.now() - begun) / 1_000);
}

async function bulk(system) {
  const begun = performance.now();
  for (let added = 0; added < jobs; added += batch) await system.bulk(batch);
  return jobs / ((performance.now() - begun) / 1_000);
}

// From the first handler's start until the store has every job completed; it is asked only when all handlers have run.
async function workOff(system, count) {
  let first, ran = 0;
  await system.work((some) => {
    first ??= performance.now();
    ran += some;
  });
  while (ran < count) await sleep(5);
  while (!(await system.drained(count))) await sleep(1);
  return count / ((performance.now() - first) / 1_000);
}

async function latency(system) {
  const times = [];
  for (let round = -10; round < 200; round++) {
    const begun = performance.now();
    await system.once();
    if (round >= 0) times.push(performance.now() - begun);
    await sleep(20);
  }
  times.sort((a, b) => a - b);
  return [times[100], times[190]];
}

const system = await { graphile, pgBoss, bullmq }[peer]();
const added = await bulk(system);
const worked = await workOff(system, jobs);
await sleep(1_000);
const [median, slow] = await latency(system);
await system.stop();
const single = await oneByOne(system);
console.log(JSON.stringify({ added, worked, single, median, slow }));
process.exit(0);
