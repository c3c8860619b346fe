// Every text of the page in Chinese.

import { chat } from "./chinese/chat";
import { machine } from "./chinese/machine";
import type { english } from "./english";

export const chinese: Record<keyof typeof english, string> = {
  ...chat,
  ...machine,
  "app.name": "tailrace",
  "nav.chat": "对话",
  "nav.machine": "机器",
  "nav.views": "视图",
  "nav.skip": "跳到内容",
  "theme.label": "外观",
  "theme.system": "系统",
  "theme.light": "浅色",
  "theme.dark": "深色",
  "language.label": "语言",
  "common.close": "关闭",
  "common.cancel": "取消",
  "common.retry": "重试",
  "common.loading": "正在加载……",
  "key.title": "需要 API 密钥",
  "key.explain": "此服务器只响应持有密钥的客户端。管理员可用以下命令创建密钥：tailrace keys create NAME",
  "key.wrong": "服务器不接受此密钥。",
  "key.label": "API 密钥",
  "key.keep": "在此浏览器中保存密钥",
  "key.use": "使用此密钥",
  "key.forget": "忘记密钥",
  "connection.lost": "无法连接服务器。页面会自动重试；你写的内容不会丢失。",
  "connection.back": "服务器已恢复响应。",
};
