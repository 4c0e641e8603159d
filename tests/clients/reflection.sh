#!/usr/bin/env bash
# The recipe's walk by reflection alone: no contract at hand, only `buf curl` and the addresses. Starts a stack of its
# own with `cargo run`, and ends it. `BUF` names the buf to use where it is not on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

scratch="$(mktemp -d)"
cargo run --quiet --locked > "$scratch/stack" 2> "$scratch/log" < /dev/null &
stack=$!
finish() {
  local code=$?
  kill -INT "$stack" 2> /dev/null || true
  wait "$stack" || true
  if [[ $code -ne 0 ]]; then
    cat "$scratch/log" >&2
  fi
  rm -rf "$scratch"
}
trap finish EXIT

# The last lines that a stack prints are calls to try: by then it is up.
for _ in $(seq 600); do
  if grep -q '^To look into its AWS' "$scratch/stack"; then
    break
  fi
  kill -0 "$stack"
  sleep 0.2
done
address() { awk -v name="$1" '$1 == name { print $2 }' "$scratch/stack"; }

# call DEPLOYABLE METHOD REQUEST: prints the reply as JSON
call() {
  "${BUF:-buf}" curl --protocol grpc --http2-prior-knowledge --data "$3" "http://$(address "$1")/$2"
}
# after: the read-after token of a command's reply, as it is; id: its aggregate
after() { python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["result"]["readAfter"]))'; }
id() { after | python3 -c 'import json, sys; print(json.load(sys.stdin)["aggregateId"])'; }
expect() { # WHAT WORD TEXT
  if [[ $3 != *"$2"* ]]; then
    echo "reflection.sh: $1: no $2 in: $3" >&2
    exit 1
  fi
  echo "$1"
}

users=shop.command.v1.UserCommandService
orders=shop.command.v1.OrderCommandService
user="$(call command-service $users/CreateUser '{"email": "john.doe@example.com", "name": "John Doe"}' | id)"
item='{"product": "laptop", "quantity": 1, "price": {"currencyCode": "USD", "units": "999", "nanos": 990000000}}'
order="$(call command-service $orders/CreateOrder "{\"userId\": \"$user\", \"items\": [$item]}" | id)"
after="\"after\": $(call command-service $orders/UpdateOrderStatus "{\"orderId\": \"$order\", \"status\": \"ORDER_STATUS_PROCESSING\"}" | after)"

queries=shop.query.v1.OrderQueryService
by_user="$(call query-service $queries/GetOrdersByUser "{\"userId\": \"$user\", $after}")"
expect "the order is in its user's list at once" "$order" "$by_user"
expect "in its new status" ORDER_STATUS_PROCESSING "$by_user"
by_status="$(call query-service $queries/GetOrdersByStatus "{\"status\": \"ORDER_STATUS_PROCESSING\", $after}")"
expect "and in the list of that status" "$order" "$by_status"
totals="$(call query-service shop.query.v1.CustomerQueryService/GetCustomerTotals "{\"userId\": \"$user\", $after}")"
expect "and in its customer's totals" '"999"' "$totals"
history=millrace.query.v1.HistoryService
events="$(call query-service $history/GetHistory "{\"aggregateType\": \"order\", \"aggregateId\": \"$order\"}")"
expect "its history shows the event by the shop's contract" shop.event.v1.OrderStatusUpdated "$events"
expect "with what it says" ORDER_STATUS_PROCESSING "$events"
