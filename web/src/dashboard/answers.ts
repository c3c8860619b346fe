// What the server's dashboard routes answer: docs/diagnosis.md. Times are in seconds, sizes in bytes, parts from 0 to 1.

export interface Finding {
  code: string;
  severity: "critical" | "warning" | "info";
  sentence: string;
  advice: string;
}

export interface Percentiles {
  p50: number | null;
  p90: number | null;
  p99: number | null;
}

export interface EngineStats {
  model: string | null;
  replica: number;
  pid: number;
  running: number;
  waiting: number;
  steps: number;
  batch: number;
  step_seconds: number;
  kv_used: number;
  kv_cells: number;
  read_rate: number | null;
  parts: Record<EnginePart, number>;
  speed: Speed | null;
}

/** Tokens a second of a placed model; what isn't measured yet is 0. */
export interface Speed {
  predicted_decode: number;
  predicted_prompt: number;
  decode: number;
  prompt: number;
  reason: string;
}

export type EnginePart = "decode" | "schedule" | "masks" | "sample" | "publish" | "embeddings";

export interface ProcessStats {
  role: string;
  pid: number;
  cpu: number;
  memory: number;
  threads: number;
  wait: number;
}

/** What a device has of a model that is divided. */
export interface DeviceShare {
  name: string;
  layers: number;
  tensors: number;
  weights_bytes: number;
  kv_bytes: number;
  cache_bytes?: number;
}

/** A CPU or GPU. A figure that isn't known is absent. */
export interface DeviceReading {
  device: string;
  description?: string;
  address?: string;
  memory?: number;
  free?: number;
  use?: number;
  temperature?: number;
  temperature_limit?: number;
  power?: number;
}

export interface LinkStats {
  sent_rate: number;
  received_rate: number;
  round_trip: number;
}

export interface WorkerStats {
  worker: string;
  model: string | null;
  replica: number;
  devices: DeviceReading[];
  link: LinkStats | null;
}

export interface Hardware {
  local: DeviceReading[];
  workers: WorkerStats[];
}

export interface Stats {
  model: string;
  limit: string;
  findings: Finding[];
  requests: { running: number; waiting: number; slots: number; oldest_wait: number };
  tokens: { generated: number; prompt: number; cached_part: number | null; accepted_part: number | null };
  latency: { window: number; first_token: Percentiles; inter_token: Percentiles };
  engines: EngineStats[];
  processes: ProcessStats[];
  devices: DeviceShare[];
  hardware: Hardware;
}

export type User = "compute" | "engine" | "http" | "supervisor" | "other" | "stolen";

export interface ThreadUse {
  process: string;
  name: string;
  user: User;
  cpu: number;
  wait: number;
}

export interface CoreUse {
  cpu: number;
  core: number;
  node: number;
  usable: boolean;
  use: Partial<Record<User, number>>;
  threads: ThreadUse[];
}

export type RequestState = "reading" | "loading" | "preparing" | "queued" | "prompt" | "reply" | "computing";

export interface RequestRow {
  number: number;
  request_id: string;
  own: boolean;
  client: string;
  dialect: string;
  route: string;
  model: string | null;
  state: RequestState;
  age: number;
  prompt_tokens: number | null;
  prompt_computed: number;
  cached_tokens: number;
  reply_tokens: number;
  max_tokens: number | null;
  choices: number;
  first_token: number | null;
  rate: number | null;
}

/** Columns with a value for each second, oldest first. */
export interface History {
  time: number[];
  generated: number[];
  prompt: number[];
  running: number[];
  waiting: number[];
  kv_part: number[];
  first_token_p50: (number | null)[];
  first_token_p99: (number | null)[];
  inter_token_p50: (number | null)[];
  inter_token_p99: (number | null)[];
}

export interface Live {
  time: number;
  version: string;
  started: number;
  state: "ok" | "loading" | "restarting" | "stalled" | "draining";
  operator: boolean;
  keys: boolean;
  stats: Stats;
  machine: { memory: number; available: number };
  cores: CoreUse[];
  requests: RequestRow[];
  hidden_requests: number;
  history: History;
}

export interface ModelRow {
  name: string;
  phase: "starting" | "serving" | "stopping" | "unloaded" | "failed";
  reason: string | null;
  description: string | null;
  size: number | null;
  memory: number;
  context: number | null;
  slots: number;
  running: number;
  waiting: number;
  loads: number;
  load_seconds: number | null;
  idle_seconds: number | null;
  pinned: boolean;
  can_load: boolean;
  can_unload: boolean;
}

export interface Models {
  models: ModelRow[];
  on_demand: boolean;
  memory: number | null;
  pulls: boolean;
  serves_pulled: boolean;
}

export interface LogLine {
  number: number;
  time: number;
  level: "debug" | "info" | "warning" | "error" | "critical";
  process: string;
  text: string;
}

export interface Log {
  lines: LogLine[];
  last: number;
}

/** One line of the stream of `/api/pull`. */
export interface PullStatus {
  status?: string;
  total?: number;
  completed?: number;
  error?: string;
}
