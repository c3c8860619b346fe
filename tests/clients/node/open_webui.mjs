// Open WebUI in a headless Chromium, as a person would use it: chats in pages of their own at the same time.
//
// Takes {url, chromium, screenshots, chats: [{name, model, turns: [{text, followUp}]}]} as its argument and prints what was on
// the pages: for each chat the replies after each turn, the title, the stored tags and models, and what went wrong.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const PATIENCE = 60_000;
const { url, chromium: executablePath, screenshots, chats } = JSON.parse(process.argv[2]);

async function open(context, model) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  await page.goto(model ? `${url}?models=${model}` : url);
  const input = page.locator("#chat-input");
  await input.waitFor();
  return page;
}

// The replies on the page once they rest. Open WebUI draws a growing reply once a frame, and a busy machine is late with
// frames: the follow-up can stand there before the reply's last words.
async function shown(page) {
  const replies = page.locator(".chat-assistant");
  let before;
  let texts = [];
  do {
    before = texts;
    await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
    await page.waitForTimeout(500);
    texts = await replies.allInnerTexts();
  } while (String(texts) !== String(before));
  return texts;
}

// Sends a message and waits for the follow-up, which comes after everything else; gives all replies on the page.
async function say(page, { text, followUp }) {
  await page.locator("#chat-input").click();
  await page.keyboard.insertText(text);
  await page.keyboard.press("Enter");
  await page.getByText(followUp, { exact: true }).first().waitFor();
  return shown(page);
}

async function stored(page) {
  const id = page.url().split("/").at(-1);
  return page.evaluate(async (path) => {
    const headers = { Authorization: `Bearer ${localStorage.token}` };
    const chat = await (await fetch(path, { headers })).json();
    return { title: chat.title, tags: chat.meta?.tags ?? [], models: chat.chat.models };
  }, `/api/v1/chats/${id}`);
}

async function converse(page, { name, turns }) {
  const seen = { replies: [], title: "", tags: [], failure: null };
  try {
    for (const turn of turns) seen.replies.push(await say(page, turn));
    const heading = `Title of ${turns[0].text.slice(0, name.length)}`;
    await page.getByText(heading, { exact: true }).first().waitFor();
    Object.assign(seen, await stored(page));
  } catch (error) {
    seen.failure = String(error);
    seen.replies.push(await page.locator(".chat-assistant").allInnerTexts());
  }
  await page.screenshot({ path: join(screenshots, `${name}.png`) });
  return seen;
}

const profile = mkdtempSync(join(tmpdir(), "tailrace-chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  // What is new is told once, over everything.
  const first = await open(context);
  await first.getByText("Okay, Let's Go!").click();
  await first.getByRole("dialog").waitFor({ state: "hidden" });
  const pages = [];
  for (const { model } of chats) pages.push(await open(context, model));
  const seen = await Promise.all(chats.map((chat, index) => converse(pages[index], chat)));
  console.log(JSON.stringify(seen));
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
