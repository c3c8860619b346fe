// The findings' meaning and advice in Chinese, by their codes (docs/diagnosis.md). The server's sentence has the figures.

export const findings: Record<string, { meaning: string; advice: string }> = {
  engine_stopped: {
    meaning: "引擎进程被信号或调试器停止",
    advice: "用 `kill -CONT PID` 让它继续。挂起的引擎会由监督进程替换。",
  },
  engine_stalled: {
    meaning: "引擎没有任何响应，而进程并未停止",
    advice: "请查看服务器日志。挂起的引擎会由监督进程替换。",
  },
  loading: {
    meaning: "没有引擎连接：模型正在加载，或引擎正在重启",
    advice: "请等待模型加载。如果持续，请在服务器日志中查看原因。",
  },
  replica_missing: {
    meaning: "多个引擎中有一个未连接：正在加载模型或重启",
    advice: "请等待。如果持续，请在服务器日志中查看原因。",
  },
  engine_replaced: { meaning: "一个引擎刚刚被新的引擎替换", advice: "请在服务器日志中查看原因。" },
  too_many_threads: {
    meaning: "计算线程多于 CPU：每一步都要等待没有 CPU 的线程",
    advice: "请减少线程：不设 `--threads` 时每个物理核心一个线程。",
  },
  shared_cores: {
    meaning: "HTTP 进程在相同核心上占用引擎线程的 CPU 时间",
    advice: "用 `--http-cpus` 和 `--cpus` 分开核心，或将 `--threads` 减一。",
  },
  foreign_process: {
    meaning: "其他程序在引擎的核心上运行，计算线程在等待",
    advice: "停止该程序、降低其优先级，或用 `taskset` 或 cpuset 让它避开引擎的核心。",
  },
  cpu_quota: {
    meaning: "控制组的 CPU 配额使服务器在每个周期内暂停",
    advice: "提高配额（容器的 `--cpus`），或使线程数不超过配额中的整数 CPU。",
  },
  cpu_stolen: { meaning: "虚拟机管理程序把引擎的 CPU 分给了其他虚拟机", advice: "申请专用 CPU，或减少线程。" },
  thermal_throttling: { meaning: "CPU 过热，硬件降低了频率", advice: "改善散热。较少的线程产生较少的热量。" },
  clock_capped: {
    meaning: "系统不允许 CPU 达到最高频率",
    advice: "用 `cpupower frequency-set --max` 提高上限，或检查省电模式。",
  },
  weights_evicted: {
    meaning: "引擎在计算时从磁盘读取内存页：它的内存被夺走",
    advice: "释放内存，或使用更小的模型、更小的 `--ctx` 或 `--keep-mb`。",
  },
  swapping: { meaning: "服务器的内存在交换区中，正被读回", advice: "释放内存，或使用更小的模型或更小的 `--keep-mb`。" },
  memory_pressure: {
    meaning: "此机器的任务在等待内存",
    advice: "停止占用内存的程序，或降低 `--keep-mb`、`--kv-tokens` 或 `--ctx`。",
  },
  far_memory: {
    meaning: "引擎的部分内存位于其他 NUMA 节点",
    advice: "让 tailrace 为每个节点规划一个副本（不用 `--numa off`），或用 `--cpus` 将引擎绑定到一个节点。",
  },
  slow_kernels: {
    meaning: "矩阵乘法使用的代码比此 CPU 支持的更慢",
    advice: "删除设置 `kernels`。`tailrace doctor` 会显示某个库不能使用的原因。",
  },
  grammar_masks: {
    meaning: "带语法的回复的词元掩码未能及时算出",
    advice: "简化 JSON 模式或语法：有歧义的规则和大量分支会变慢。",
  },
  step_overhead: { meaning: "每步的大部分时间不是模型计算", advice: "减少 logprobs，并在大词表上减少惩罚和采样器。" },
  http_process: {
    meaning: "HTTP 进程是瓶颈：没有剩余 CPU 时间，或事件循环延迟",
    advice: "减少事件（减少 logprobs），减少压缩，或将客户端分到多台服务器。",
  },
  slow_reader: {
    meaning: "某个客户端读取流的速度比引擎写入慢",
    advice: "检查该客户端或其网络。其他客户端不受影响；落后过多者会被停止。",
  },
  file_descriptors: {
    meaning: "HTTP 进程的文件描述符几乎用尽：新连接将失败",
    advice: "提高上限（`ulimit -n`，systemd 的 `LimitNOFILE`），或关闭空闲连接。",
  },
  kv_full: {
    meaning: "KV 缓存已满：序列被暂停，之后重新计算",
    advice: "内存充足时提高 `--kv-tokens`，或降低 `--parallel` 或请求长度。",
  },
  disk_tier: {
    meaning: "请求在等待从磁盘读取前缀状态",
    advice: "使用更快的磁盘，用 `--keep-mb` 在内存中保留更多，或用 `--keep-disk-mb 0` 关闭磁盘。",
  },
  intake: { meaning: "请求在等待分词或语法编译", advice: "重复使用相同的语法：已编译的语法会被记住。" },
  queue_full: {
    meaning: "等待的请求过多，新请求被拒绝（429）",
    advice: "减少同时发送的请求，提高 `--queue-requests` 或 `--queue-tokens`，或增加服务器。",
  },
  queue: {
    meaning: "请求多于槽位：请求在等待槽位",
    advice: "如果吞吐量仍会增长，提高 `--parallel`（`tailrace bench`），或增加服务器。",
  },
  memory_bandwidth: {
    meaning: "读取权重限制了每一步：内存带宽已用尽",
    advice: "同时处理更多请求可共享每次读取。更小的权重格式更快，更多线程则不会。",
  },
  compute: {
    meaning: "计算限制了每一步：引擎一直在计算，内存仍有余量",
    advice: "更快或更多的核心，以及在此处更快的权重格式会有帮助（`tailrace tune`）。",
  },
  engine: {
    meaning: "引擎一直在计算；尚不知道限制它的是计算还是内存",
    advice: "服务器和机器空闲时会测量一次内存带宽。",
  },
  spare: { meaning: "服务器有余量：引擎有一部分时间在等待请求", advice: "" },
  idle: { meaning: "没有运行或等待的请求", advice: "" },
};
