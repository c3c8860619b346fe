// The conversations that the browser keeps, in IndexedDB. Each message is an entry of its own, and a conversation's
// fields are changed within one transaction: so two tabs never overwrite what the other has written.

import { SCOPE } from "../preferences";
import { Store } from "../store";
import type { Conversation, Message } from "./conversation";

export interface History {
  conversations(): Promise<Conversation[]>;
  messages(conversation: string): Promise<Message[]>;
  putConversation(conversation: Conversation): Promise<void>;
  /** Changes fields of a conversation that exists; others keep what any tab has written. */
  changeConversation(id: string, change: Partial<Conversation>): Promise<void>;
  putMessages(messages: readonly Message[]): Promise<void>;
  remove(conversation: string): Promise<void>;
}

/** Why the browser keeps nothing, in its own words; null while it does. */
export const historyProblem = new Store<string | null>(null);

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

class KeptHistory implements History {
  constructor(private readonly database: IDBDatabase) {}

  conversations(): Promise<Conversation[]> {
    return result(this.read("conversations").getAll());
  }

  messages(conversation: string): Promise<Message[]> {
    return result(this.read("messages").index("conversation").getAll(conversation));
  }

  putConversation(conversation: Conversation): Promise<void> {
    return this.write(["conversations"], (transaction) => {
      transaction.objectStore("conversations").put(conversation);
    });
  }

  changeConversation(id: string, change: Partial<Conversation>): Promise<void> {
    return this.write(["conversations"], (transaction) => {
      const store = transaction.objectStore("conversations");
      const found = store.get(id);
      found.onsuccess = () => {
        // Another tab may have deleted it.
        if (found.result !== undefined) store.put({ ...found.result, ...change });
      };
    });
  }

  putMessages(messages: readonly Message[]): Promise<void> {
    return this.write(["messages"], (transaction) => {
      for (const message of messages) transaction.objectStore("messages").put(message);
    });
  }

  remove(conversation: string): Promise<void> {
    return this.write(["conversations", "messages"], (transaction) => {
      transaction.objectStore("conversations").delete(conversation);
      const messages = transaction.objectStore("messages");
      const keys = messages.index("conversation").getAllKeys(conversation);
      keys.onsuccess = () => {
        for (const key of keys.result) messages.delete(key);
      };
    });
  }

  private read(store: string): IDBObjectStore {
    return this.database.transaction(store, "readonly").objectStore(store);
  }

  /** A full disk is shown, and the chat goes on: its messages are still on the page. */
  private async write(stores: string[], work: (transaction: IDBTransaction) => void): Promise<void> {
    try {
      const transaction = this.database.transaction(stores, "readwrite");
      work(transaction);
      await finished(transaction);
    } catch (error) {
      historyProblem.value = String(error);
    }
  }
}

/** For browsers that keep nothing: the history ends with the visit. */
class VisitHistory implements History {
  private readonly known = new Map<string, Conversation>();
  private readonly said = new Map<string, Message>();

  async conversations(): Promise<Conversation[]> {
    return [...this.known.values()];
  }

  async messages(conversation: string): Promise<Message[]> {
    return [...this.said.values()].filter((message) => message.conversation === conversation);
  }

  async putConversation(conversation: Conversation): Promise<void> {
    this.known.set(conversation.id, conversation);
  }

  async changeConversation(id: string, change: Partial<Conversation>): Promise<void> {
    const found = this.known.get(id);
    if (found !== undefined) this.known.set(id, { ...found, ...change });
  }

  async putMessages(messages: readonly Message[]): Promise<void> {
    for (const message of messages) this.said.set(message.id, message);
  }

  async remove(conversation: string): Promise<void> {
    this.known.delete(conversation);
    for (const message of await this.messages(conversation)) this.said.delete(message.id);
  }
}

async function open(): Promise<History> {
  try {
    const request = indexedDB.open(SCOPE, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
    };
    const database = await result(request);
    // A later version of the page, in another tab, may change the stores.
    database.onversionchange = () => database.close();
    return new KeptHistory(database);
  } catch (error) {
    historyProblem.value = String(error);
    return new VisitHistory();
  }
}

export const history: Promise<History> = open();
