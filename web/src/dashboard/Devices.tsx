// The machines that compute a model: this one with its GPUs, and workers with the links to them.

import { useTranslate } from "../language/language";
import type { DeviceReading, DeviceShare, Hardware, LinkStats } from "./answers";
import { Bar } from "./Bar";
import { number, percent, seconds, size } from "./figures";

/** Nothing on a machine that has only its CPU: cores and memory are shown beside. */
export function Devices({ hardware, shares }: { hardware: Hardware; shares: DeviceShare[] }) {
  const t = useTranslate();
  const { local, workers } = hardware;
  if (workers.length === 0 && !local.some(({ device }) => device !== "cpu")) return null;
  const addresses = workers.map(({ worker }) => worker);
  const workerOf = (name: string) => addresses.find((worker) => name === worker || name.startsWith(`${worker}/`));
  return (
    <section aria-labelledby="devices-title">
      <h2 id="devices-title">{t("machine.devices")}</h2>
      <ul class="devices">
        <Machine
          name={t("machine.device.local")}
          devices={local}
          shares={shares.filter(({ name }) => workerOf(name) === undefined)}
        />
        {workers.map(({ worker, model, replica, devices, link }) => (
          <Machine
            key={`${worker} ${model} ${replica}`}
            name={worker}
            model={model}
            devices={devices}
            shares={shares.filter(({ name }) => workerOf(name) === worker)}
            link={link}
          />
        ))}
      </ul>
    </section>
  );
}

interface MachineProps {
  name: string;
  model?: string | null;
  devices: DeviceReading[];
  shares: DeviceShare[];
  link?: LinkStats | null;
}

function Machine({ name, model = null, devices, shares, link = null }: MachineProps) {
  const t = useTranslate();
  return (
    <li class="card machine">
      <h3>
        {name}
        {model !== null && <span class="soft"> {t("machine.device.model", { model })}</span>}
      </h3>
      <ul class="soft">
        {shares.map((share) => (
          <li key={share.name}>
            {share.layers + share.tensors === 0
              ? t("machine.device.none")
              : t("machine.device.share", {
                  name: share.name,
                  layers: number(share.layers),
                  weights: size(share.weights_bytes),
                  cache: size(share.cache_bytes ?? share.kv_bytes),
                })}
          </li>
        ))}
      </ul>
      <ul class="readings">
        {devices.map((device) => (
          <Reading key={device.device} reading={device} />
        ))}
      </ul>
      {link !== null && (
        <dl class="facts">
          <div>
            <dt>{t("machine.device.link")}</dt>
            <dd class="figure">
              {t("machine.device.rates", {
                sent: size(link.sent_rate),
                received: size(link.received_rate),
                time: seconds(link.round_trip),
              })}
            </dd>
          </div>
        </dl>
      )}
    </li>
  );
}

function Reading({ reading }: { reading: DeviceReading }) {
  const t = useTranslate();
  const { device, description, memory, free, use, temperature, temperature_limit: limit, power } = reading;
  const gpu = /^gpu(\d+)$/.exec(device);
  const facts: string[] = [];
  if (memory !== undefined && free !== undefined)
    facts.push(t("machine.device.free", { free: size(free), memory: size(memory) }));
  if (temperature !== undefined) {
    const degrees = number(temperature);
    facts.push(
      limit === undefined
        ? t("machine.device.temperature", { degrees })
        : t("machine.device.limit", { degrees, limit: number(limit) }),
    );
  }
  if (power !== undefined) facts.push(t("machine.device.power", { watts: number(power) }));
  return (
    <li data-device={device}>
      <p class="core-head">
        <span>
          {gpu === null ? t("machine.device.cpu") : t("machine.device.gpu", { number: Number(gpu[1]) })}{" "}
          <span class="soft">{description}</span>
        </span>
        {use !== undefined && <span class="figure">{percent(use)}</span>}
      </p>
      {memory !== undefined && free !== undefined && memory > 0 && (
        <Bar parts={[{ part: Math.max(0, 1 - free / memory), kind: "user-compute" }]} />
      )}
      {facts.length > 0 && <p class="soft figure">{facts.join(" · ")}</p>}
    </li>
  );
}
