// Runs an ONNX file on numbers from standard input: {"path", "data", "dims"} -> {"data", "dims"}.
const ort = require("onnxruntime-node");

async function main() {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const { path, data, dims } = JSON.parse(Buffer.concat(chunks).toString());
  const session = await ort.InferenceSession.create(path);
  const input = new ort.Tensor("float32", Float32Array.from(data), dims);
  const outputs = await session.run({ [session.inputNames[0]]: input });
  const output = outputs[session.outputNames[0]];
  process.stdout.write(JSON.stringify({ data: Array.from(output.data), dims: output.dims }));
}

main();
