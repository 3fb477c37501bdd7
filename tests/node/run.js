// Runs an ONNX file on numbers from standard input, in onnxruntime-node or onnxruntime-web.
//
// {"runtime", "path", "inputs": {name: {"type", "data", "dims"}}}
// -> {name: {"type", "data", "dims"}}
const { readFileSync } = require("node:fs");

const ARRAYS = { float32: Float32Array, float64: Float64Array, bool: Uint8Array };

function tensorOf(ort, { type, data, dims }) {
  if (type === "int64") {
    return new ort.Tensor("int64", BigInt64Array.from(data.map(BigInt)), dims);
  }
  return new ort.Tensor(type, ARRAYS[type].from(data), dims);
}

async function main() {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const { runtime, path, inputs } = JSON.parse(Buffer.concat(chunks).toString());
  const ort = require(runtime);
  if (runtime === "onnxruntime-web") ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(
    runtime === "onnxruntime-web" ? new Uint8Array(readFileSync(path)) : path,
  );
  const feeds = {};
  for (const [name, value] of Object.entries(inputs)) feeds[name] = tensorOf(ort, value);
  const outputs = await session.run(feeds);
  const answer = {};
  for (const name of session.outputNames) {
    const { type, data, dims } = outputs[name];
    answer[name] = { type, data: Array.from(data, Number), dims };
  }
  process.stdout.write(JSON.stringify(answer));
}

main();
