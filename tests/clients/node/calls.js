// Calls to the servers as one tenant, and the details of their errors.

import { randomUUID } from "node:crypto";

import { google, grpc, millrace, shop } from "./environment.js";

/** Longer than anything takes that is not broken, in milliseconds. */
export const PATIENCE = 30_000;

/** The queries that were made in all, by their paths. */
export const asked = new Set();

/** Every query of the contracts, by its path. */
export const queries = [millrace.query.v1, shop.query.v1]
  .flatMap(Object.values)
  .filter((known) => known.service)
  .flatMap(({ service }) => Object.values(service).map(({ path }) => path));

/** The services as one tenant sees them. Each call of a contract is a method: a promise of a reply, of
 * which a command's is its result, or a stream. */
export class Tenant {
  constructor(addresses, options = {}) {
    this.name = `node-${randomUUID()}`;
    const { command, query } = shop;
    this.users = this.#client(command.v1.UserCommandService, addresses.command, options);
    this.orders = this.#client(command.v1.OrderCommandService, addresses.command, options);
    this.profiles = this.#client(query.v1.UserQueryService, addresses.query, options);
    this.summaries = this.#client(query.v1.OrderQueryService, addresses.query, options);
    this.customers = this.#client(query.v1.CustomerQueryService, addresses.query, options);
    this.history = this.#client(millrace.query.v1.HistoryService, addresses.query, options);
  }

  #client(Service, address, options) {
    const client = new Service(address, grpc.credentials.createInsecure(), options);
    const calls = {};
    for (const [name, { path, responseStream }] of Object.entries(Service.service)) {
      calls[name] = (request, more = {}) => {
        asked.add(path);
        const metadata = new grpc.Metadata();
        metadata.set("x-tenant-id", this.name);
        const given = { deadline: Date.now() + PATIENCE, ...more };
        if (responseStream) {
          return client[name](request, metadata, given);
        }
        return new Promise((resolve, reject) => {
          client[name](request, metadata, given, (error, reply) => (error ? reject(error) : resolve(reply.result ?? reply)));
        });
      };
    }
    return calls;
  }

  /** A user. */
  createUser(email = "john.doe@example.com") {
    return this.users.CreateUser({ email, name: "John Doe" });
  }

  /** An order of that user. */
  createOrder(user, items = [laptop()]) {
    return this.orders.CreateOrder({ userId: id(user), items });
  }

  /** Moves that order to a status. */
  move(order, status) {
    return this.orders.UpdateOrderStatus({ orderId: id(order), status });
  }
}

/** Any valid item. */
export function laptop() {
  return { product: "laptop", quantity: 1, price: { currencyCode: "USD", units: "999", nanos: 990_000_000 } };
}

/** The aggregate that a command's reply is about. */
export function id({ readAfter }) {
  return readAfter.aggregateId;
}

/** The read-after token that a command's reply holds, as it is. */
export function after({ readAfter }) {
  return readAfter;
}

/** The error of a call that is refused with that code. */
export async function refused(code, call) {
  let reply;
  try {
    reply = await call;
  } catch (error) {
    if (error.code !== code) {
      throw new Error(`${grpc.status[code]} expected: ${error.message}`, { cause: error });
    }
    return error;
  }
  throw new Error(`${grpc.status[code]} expected, and the call succeeded: ${JSON.stringify(reply)}`);
}

/** The one detail of a kind that an error carries, such as `ErrorInfo`. */
export function detail(error, kind) {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const details = bytes ? google.rpc.Status.deserialize(bytes).details : [];
  const found = details.filter((packed) => packed.type_url === `type.googleapis.com/google.rpc.${kind}`);
  if (found.length !== 1) {
    throw new Error(`one ${kind} expected: ${JSON.stringify(details)} in ${error.message}`);
  }
  return google.rpc[kind].deserialize(found[0].value);
}
