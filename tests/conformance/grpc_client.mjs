// The cases of the judge `grpc-health` that grpc-js asks: a line of JSON for each, {"name", "failure"}. The messages are so small that they
// are made by hand: HealthCheckRequest has a string in field 1, HealthCheckResponse a number.
import { createRequire } from "node:module";

const [address, packages, services, unknown] = process.argv.slice(2);
const grpc = createRequire(`${packages}/`)("@grpc/grpc-js");
const STATUSES = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const deadline = () => new Date(Date.now() + 10_000);
const encode = (service) => Buffer.concat([Buffer.from(service ? [0x0a, service.length] : []), Buffer.from(service)]);
const decode = (bytes) => STATUSES[bytes.length ? bytes[1] : 0];

const client = new grpc.Client(address, grpc.credentials.createInsecure());

function check(service) {
  return new Promise((resolve) => client.makeUnaryRequest("/grpc.health.v1.Health/Check", encode, decode, service, new grpc.Metadata(),
    { deadline: deadline() }, (error, status) => resolve(error ? grpc.status[error.code] : status)));
}

function watch(service) {
  return new Promise((resolve) => {
    const call = client.makeServerStreamRequest("/grpc.health.v1.Health/Watch", encode, decode, service, new grpc.Metadata(), { deadline: deadline() });
    call.on("data", (status) => { resolve(status); call.cancel(); });
    call.on("error", (error) => resolve(grpc.status[error.code]));
  });
}

const tell = (name, got, wanted) => console.log(JSON.stringify({ name, failure: got === wanted ? null : `${got} instead of ${wanted}` }));
for (const service of JSON.parse(services)) tell(`Check '${service}'`, await check(service), "SERVING");
tell("Check of what is not there", await check(unknown), "NOT_FOUND");
tell("Watch", await watch(""), "SERVING");
tell("Watch of what is not there", await watch(unknown), "SERVICE_UNKNOWN");
const all = await Promise.all(Array.from({ length: 100 }, () => check("")));
tell("a hundred Checks at a time", all.filter((status) => status !== "SERVING").length, 0);
client.close();
