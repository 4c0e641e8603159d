// The contracts' promises, one fact after the other, each in a tenant of its own.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:http2";
import { gunzipSync } from "node:zlib";

import { PATIENCE, Tenant, after, asked, detail, id, laptop, queries, refused } from "./calls.js";
import { grpc, shop } from "./environment.js";

/** Name and check of every fact, in their order. */
export const facts = [];

function fact(name, check) {
  facts.push([name, check]);
}

/** The pages of a list, of two each. */
async function pages(call, request, field) {
  const all = [];
  let pageToken = "";
  do {
    assert.ok(all.length < 10, "the list does not end");
    const page = await call({ ...request, pageSize: 2, pageToken });
    all.push(page[field]);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return all;
}

/** A watch that is read state by state. */
class Watch {
  #stream;
  #states;

  constructor(stream) {
    this.#stream = stream;
    this.#states = stream[Symbol.asyncIterator]();
  }

  /** The next state. */
  async next() {
    const { done, value } = await this.#states.next();
    assert.ok(!done, "the watch ended");
    return value;
  }

  /** Leaves. */
  async leave() {
    this.#stream.cancel();
    await assert.rejects(this.#states.next(), { code: grpc.status.CANCELLED });
  }
}

fact("every query shows what was commanded as soon as it is stored", async (addresses) => {
  const tenant = new Tenant(addresses);
  const user = await tenant.createUser("John.Doe@example.com");
  const order = await tenant.createOrder(user);
  const moved = await tenant.move(order, "ORDER_STATUS_PROCESSING");
  assert.equal(moved.readAfter.version, "2");

  const byId = await tenant.profiles.GetUserProfile({ userId: id(user), after: after(user) });
  assert.equal(byId.userProfile.email, "John.Doe@example.com");
  const byEmail = await tenant.profiles.GetUserByEmail({ email: "john.doe@EXAMPLE.com", after: after(user) });
  assert.deepEqual(byEmail, byId);
  const { order: summary } = await tenant.summaries.GetOrder({ orderId: id(order), after: after(moved) });
  assert.equal(summary.status, "ORDER_STATUS_PROCESSING");
  assert.deepEqual(summary.items, [laptop()]);
  const ofUser = await tenant.summaries.GetOrdersByUser({ userId: id(user), after: after(moved) });
  const processing = { status: "ORDER_STATUS_PROCESSING", after: after(moved) };
  const inStatus = await tenant.summaries.GetOrdersByStatus(processing);
  assert.deepEqual([ofUser.orders, inStatus.orders], [[summary], [summary]]);
  const { totals } = await tenant.customers.GetCustomerTotals({ userId: id(user), after: after(moved) });
  assert.deepEqual([totals.orders, totals.cancelled, totals.spent], [1, 0, [laptop().price]]);
  const nobody = randomUUID();
  const orderIds = [nobody, id(order)];
  const orders = await tenant.summaries.BatchGetOrders({ orderIds, after: after(moved) });
  assert.deepEqual([orders.orders, orders.missingOrderIds], [[summary], [nobody]]);
  const userIds = [id(user), nobody];
  const users = await tenant.profiles.BatchGetUserProfiles({ userIds, after: after(user) });
  assert.deepEqual([users.userProfiles, users.missingUserIds], [[byId.userProfile], [nobody]]);
  const customers = await tenant.customers.BatchGetCustomerTotals({ userIds, after: after(moved) });
  assert.deepEqual([customers.totals, customers.missingUserIds], [[totals], [nobody]]);

  const history = await tenant.history.GetHistory({ aggregateType: "order", aggregateId: id(order) });
  const types = history.events.map(({ event }) => event.type_url.split(".").at(-1));
  assert.deepEqual(types, ["OrderCreated", "OrderStatusUpdated"]);
  const was = await tenant.summaries.GetOrderAsOf({ orderId: id(order), asOf: { version: "1" } });
  assert.equal(was.order.status, "ORDER_STATUS_CREATED");
  const profile = await tenant.profiles.GetUserProfileAsOf({ userId: id(user), asOf: { version: "1" } });
  assert.deepEqual(profile, byId);
  const found = await tenant.history.SearchEvents({ eventType: "OrderStatusUpdated", after: after(moved) });
  assert.deepEqual(found.events.map(({ eventId }) => eventId), [moved.eventId]);
});

fact("every list is read page by page", async (addresses) => {
  const tenant = new Tenant(addresses);
  const user = await tenant.createUser();
  const placed = [];
  for (let n = 0; n < 5; n += 1) {
    placed.push(await tenant.createOrder(user));
  }
  // The local AWS's indexes do not lag behind its tables, so every row is in the lists.
  for (const order of placed) {
    await tenant.summaries.GetOrder({ orderId: id(order), after: after(order) });
  }
  const ids = placed.map(id);
  const newestFirst = ids.toReversed();
  const userId = id(user);
  const { summaries, history } = tenant;
  for (const [call, request] of [
    [summaries.GetOrdersByUser, { userId }],
    [summaries.GetOrdersByStatus, { status: "ORDER_STATUS_CREATED" }],
  ]) {
    const found = await pages(call, request, "orders");
    assert.deepEqual(found.map((page) => page.length), [2, 2, 1]);
    assert.deepEqual(found.flat().map(({ orderId }) => orderId), newestFirst);
  }
  const found = await pages(history.SearchEvents, { eventType: "OrderCreated" }, "events");
  assert.deepEqual(found.flat().map(({ aggregateId }) => aggregateId), ids);

  for (const name of ["A", "B", "C", "D"]) {
    await tenant.users.UpdateUserProfile({ userId, name });
  }
  for (const [order, versions] of [
    ["SORT_ORDER_OLDEST_FIRST", [["1", "2"], ["3", "4"], ["5"]]],
    ["SORT_ORDER_NEWEST_FIRST", [["5", "4"], ["3", "2"], ["1"]]],
  ]) {
    const asked = { aggregateType: "user", aggregateId: userId, order };
    const events = await pages(history.GetHistory, asked, "events");
    assert.deepEqual(events.map((page) => page.map(({ version }) => version)), versions);
  }
});

fact("a watch shows each newer version, and goes on where it was left", async (addresses) => {
  const tenant = new Tenant(addresses);
  const user = await tenant.createUser();
  const order = await tenant.createOrder(user);
  const request = { orderId: id(order), after: after(order) };
  let watch = new Watch(tenant.summaries.WatchOrder(request));
  assert.equal((await watch.next()).order.version, "1");
  for (const [status, version] of [["ORDER_STATUS_PROCESSING", "2"], ["ORDER_STATUS_SHIPPED", "3"]]) {
    await tenant.move(order, status);
    const { order: state } = await watch.next();
    assert.deepEqual([state.status, state.version], [status, version]);
  }
  await watch.leave();

  watch = new Watch(tenant.summaries.WatchOrder({ ...request, seenVersion: "3" }));
  await tenant.move(order, "ORDER_STATUS_DELIVERED");
  assert.equal((await watch.next()).order.version, "4", "nothing that was seen comes again");
  await watch.leave();

  watch = new Watch(tenant.profiles.WatchUserProfile({ userId: id(user), after: after(user) }));
  assert.equal((await watch.next()).userProfile.name, "John Doe");
  await tenant.users.UpdateUserProfile({ userId: id(user), name: "Jane Doe" });
  assert.equal((await watch.next()).userProfile.name, "Jane Doe");
  await watch.leave();
});

fact("a watch ends with its deadline", async (addresses) => {
  const tenant = new Tenant(addresses);
  const user = await tenant.createUser();
  const deadline = Date.now() + 2_000;
  const stream = tenant.profiles.WatchUserProfile({ userId: id(user), after: after(user) }, { deadline });
  const watch = new Watch(stream);
  assert.equal((await watch.next()).userProfile.version, "1");
  await assert.rejects(watch.next(), { code: grpc.status.DEADLINE_EXCEEDED });
});

fact("an error says why, and which fields are bad", async (addresses) => {
  const tenant = new Tenant(addresses);
  const user = await tenant.createUser();
  const taken = await refused(grpc.status.ALREADY_EXISTS, tenant.createUser());
  const { reason, domain } = detail(taken, "ErrorInfo");
  assert.deepEqual([reason, domain], ["EMAIL_TAKEN", "millrace"]);

  const items = [laptop(), { ...laptop(), quantity: 0 }];
  const order = { userId: "nobody", items };
  const bad = await refused(grpc.status.INVALID_ARGUMENT, tenant.orders.CreateOrder(order));
  const fields = detail(bad, "BadRequest").fieldViolations.map(({ field }) => field);
  assert.deepEqual(fields.sort(), ["items[1].quantity", "user_id"]);

  const nobody = "00000000-0000-4000-8000-000000000000";
  const missing = await refused(grpc.status.NOT_FOUND, tenant.summaries.GetOrder({ orderId: nobody }));
  const { resourceType, resourceName } = detail(missing, "ResourceInfo");
  assert.deepEqual([resourceType, resourceName], ["order", nobody]);

  const never = { userId: id(user), after: { ...after(user), version: "9" } };
  const deadline = Date.now() + 1_000;
  const behind = tenant.profiles.GetUserProfile(never, { deadline });
  const told = await refused(grpc.status.UNAVAILABLE, behind);
  assert.equal(detail(told, "ErrorInfo").reason, "READ_MODEL_BEHIND");
  assert.notEqual(detail(told, "RetryInfo").retryDelay, null);
});

fact("requests and replies are compressed where the client asks", async (addresses) => {
  // Node's client compresses requests only if told to, and always says that it takes gzip.
  const gzip = { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip };
  const tenant = new Tenant(addresses, gzip);
  const user = await tenant.createUser();
  const items = Array.from({ length: 100 }, laptop);
  const order = await tenant.createOrder(user, items);
  const request = { orderId: id(order), after: after(order) };
  const { order: summary } = await tenant.summaries.GetOrder(request);
  assert.equal(summary.items.length, 100);

  // Whether a reply was compressed the client keeps to itself, so this is the call as it goes over the wire.
  const { path, requestSerialize, responseDeserialize } = shop.query.v1.OrderQueryService.service.GetOrder;
  const { flag, message } = await raw(addresses.query, path, tenant.name, requestSerialize(request));
  assert.equal(flag, 1, "it is compressed");
  const whole = gunzipSync(message);
  assert.ok(message.length < whole.length / 5, `${message.length} bytes of ${whole.length}`);
  assert.deepEqual(responseDeserialize(whole).order, summary);
});

/** A call that says that it takes gzip, as bytes: the first message of the reply, with its flag. */
async function raw(address, path, tenant, message) {
  const session = connect(`http://${address}`);
  try {
    const stream = session.request({
      ":method": "POST",
      ":path": path,
      te: "trailers",
      "content-type": "application/grpc",
      "grpc-accept-encoding": "gzip",
      "x-tenant-id": tenant,
    });
    stream.setTimeout(PATIENCE, () => stream.destroy(new Error("no reply in time")));
    const frame = Buffer.alloc(5);
    frame.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([frame, message]));
    const [headers] = await once(stream, "response");
    assert.equal(headers["grpc-encoding"], "gzip", JSON.stringify(headers));
    const reply = Buffer.concat(await chunks(stream));
    return { flag: reply[0], message: reply.subarray(5, 5 + reply.readUInt32BE(1)) };
  } finally {
    session.close();
  }
}

async function chunks(stream) {
  const all = [];
  for await (const chunk of stream) {
    all.push(chunk);
  }
  return all;
}

// Last, since it is about all that was done before.
fact("every query of the contracts was made", async () => {
  assert.deepEqual(queries.filter((path) => !asked.has(path)), []);
});
