/* Runs compute shaders on one Vulkan device and writes what their buffers hold afterwards.
 *
 *     runner DRIVER PLAN OUTPUT     DRIVER: a part of the device's name; "-" lists the devices
 *
 * PLAN is text, a word list a line, in this order for each program:
 *
 *     program NAME
 *     buffer BYTES FILE|-            storage buffer of the next binding, from a file's bytes or zeros
 *     shader SPIRV [ID=VALUE ...]    the next shader, with 32-bit specialization constants
 *     push HEX                       push constants of the dispatches that follow, in hexadecimal bytes
 *     addresses FIRST COUNT          appends the device addresses of buffers to the push constants
 *     dispatch SHADER X Y Z          workgroups
 *     indirect SHADER BUFFER OFFSET  workgroups from a buffer
 *     barrier                        everything before is seen by everything after
 *     fill BUFFER OFFSET BYTES WORD  vkCmdFillBuffer
 *     copy FROM OFFSET TO OFFSET BYTES
 *     queue FAMILY                   queue family to use (0 without this line)
 *     end
 *
 * For each program OUTPUT/NAME.N holds buffer N, and one line on stdout says NAME, seconds from submission to the fence,
 * and timestamps' ticks in between. Exit status 1 and one line on stderr when something is refused.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <vulkan/vulkan.h>

enum { MAX_BUFFERS = 16, MAX_SHADERS = 8, MAX_CONSTANTS = 16, MAX_PUSH = 256, FAMILIES = 8 };

static void fail(const char *what, long code)
{
    fprintf(stderr, "runner: %s (%ld)\n", what, code);
    exit(1);
}

#define CHECK(call) do { VkResult result_ = (call); if (result_ != VK_SUCCESS) fail(#call, result_); } while (0)

static VkInstance instance;
static VkPhysicalDevice physical;
static VkDevice device;
static VkPhysicalDeviceMemoryProperties memories;
static VkQueue queues[FAMILIES];
static VkCommandPool pools[FAMILIES];
static uint32_t families, timestamp_bits[FAMILIES];

struct buffer { VkBuffer handle; VkDeviceMemory memory; void *data; VkDeviceSize size; VkDeviceAddress address; };
static struct buffer buffers[MAX_BUFFERS];
static int buffer_count;
static VkPipeline pipelines[MAX_SHADERS];
static VkShaderModule modules[MAX_SHADERS];
static int shader_count;
static VkDescriptorSetLayout set_layout;
static VkPipelineLayout layout;
static VkDescriptorPool descriptor_pool;
static VkDescriptorSet set;

static void *whole_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file) { perror(path); exit(1); }
    fseek(file, 0, SEEK_END);
    *size = ftell(file);
    rewind(file);
    void *data = malloc(*size + 1);
    if (fread(data, 1, *size, file) != *size) fail(path, 0);
    fclose(file);
    return data;
}

static void open_device(const char *name)
{
    VkApplicationInfo application = { VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3 };
    VkInstanceCreateInfo instance_info = { VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application };
    CHECK(vkCreateInstance(&instance_info, NULL, &instance));
    uint32_t count = 16;
    VkPhysicalDevice found[16];
    CHECK(vkEnumeratePhysicalDevices(instance, &count, found));
    for (uint32_t i = 0; i < count; i++) {
        VkPhysicalDeviceSubgroupProperties subgroup = { VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES };
        VkPhysicalDeviceProperties2 properties = { VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, &subgroup };
        vkGetPhysicalDeviceProperties2(found[i], &properties);
        if (!strcmp(name, "-"))
            printf("%s, subgroups of %u\n", properties.properties.deviceName, subgroup.subgroupSize);
        else if (!physical && strstr(properties.properties.deviceName, name)) {
            physical = found[i];
            printf("device %s\n", properties.properties.deviceName);
        }
    }
    if (!strcmp(name, "-")) exit(0);
    if (!physical) fail("there is no such device", count);
    vkGetPhysicalDeviceMemoryProperties(physical, &memories);
    VkQueueFamilyProperties family[FAMILIES];
    families = FAMILIES;
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &families, family);
    float priority = 1;
    VkDeviceQueueCreateInfo queue_infos[FAMILIES];
    uint32_t used = 0;
    for (uint32_t i = 0; i < families; i++)
        if (family[i].queueFlags & VK_QUEUE_COMPUTE_BIT) {
            queue_infos[used++] = (VkDeviceQueueCreateInfo){ VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                .queueFamilyIndex = i, .queueCount = 1, .pQueuePriorities = &priority };
            timestamp_bits[i] = family[i].timestampValidBits;
        }
    /* every feature that the device has */
    VkPhysicalDeviceShaderAtomicFloatFeaturesEXT float_atomics = {
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_ATOMIC_FLOAT_FEATURES_EXT };
    VkPhysicalDeviceVulkan13Features v13 = { VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES, &float_atomics };
    VkPhysicalDeviceVulkan12Features v12 = { VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, &v13 };
    VkPhysicalDeviceVulkan11Features v11 = { VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES, &v12 };
    VkPhysicalDeviceFeatures2 features = { VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, &v11 };
    vkGetPhysicalDeviceFeatures2(physical, &features);
    features.features.robustBufferAccess = VK_FALSE;
    const char *extensions[] = { VK_EXT_SHADER_ATOMIC_FLOAT_EXTENSION_NAME };
    VkDeviceCreateInfo info = { VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, &features, .queueCreateInfoCount = used,
        .pQueueCreateInfos = queue_infos, .enabledExtensionCount = 1, .ppEnabledExtensionNames = extensions };
    CHECK(vkCreateDevice(physical, &info, NULL, &device));
    for (uint32_t i = 0; i < used; i++) {
        uint32_t index = queue_infos[i].queueFamilyIndex;
        vkGetDeviceQueue(device, index, 0, &queues[index]);
        VkCommandPoolCreateInfo pool = { VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO, .queueFamilyIndex = index };
        CHECK(vkCreateCommandPool(device, &pool, NULL, &pools[index]));
    }
}

static void add_buffer(VkDeviceSize size, const char *path)
{
    struct buffer *b = &buffers[buffer_count++];
    b->size = size;
    VkBufferCreateInfo info = { VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = size,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT |
                 VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                 VK_BUFFER_USAGE_TRANSFER_DST_BIT };
    CHECK(vkCreateBuffer(device, &info, NULL, &b->handle));
    VkMemoryRequirements needs;
    vkGetBufferMemoryRequirements(device, b->handle, &needs);
    const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    uint32_t type = 0;
    while (type < memories.memoryTypeCount && (!(needs.memoryTypeBits >> type & 1) ||
           (memories.memoryTypes[type].propertyFlags & wanted) != wanted))
        type++;
    VkMemoryAllocateFlagsInfo flags = { VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
        .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT };
    VkMemoryAllocateInfo allocate = { VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, &flags, needs.size, type };
    CHECK(vkAllocateMemory(device, &allocate, NULL, &b->memory));
    CHECK(vkBindBufferMemory(device, b->handle, b->memory, 0));
    CHECK(vkMapMemory(device, b->memory, 0, VK_WHOLE_SIZE, 0, &b->data));
    VkBufferDeviceAddressInfo address = { VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO, .buffer = b->handle };
    b->address = vkGetBufferDeviceAddress(device, &address);
    memset(b->data, 0, size);
    if (strcmp(path, "-")) {
        size_t got;
        void *data = whole_file(path, &got);
        memcpy(b->data, data, got < size ? got : size);
        free(data);
    }
}

static void make_layout(void)
{
    VkDescriptorSetLayoutBinding bindings[MAX_BUFFERS];
    for (int i = 0; i < buffer_count; i++)
        bindings[i] = (VkDescriptorSetLayoutBinding){ i, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1,
                                                      VK_SHADER_STAGE_COMPUTE_BIT, NULL };
    VkDescriptorSetLayoutCreateInfo info = { VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
        .bindingCount = buffer_count, .pBindings = bindings };
    CHECK(vkCreateDescriptorSetLayout(device, &info, NULL, &set_layout));
    VkPushConstantRange range = { VK_SHADER_STAGE_COMPUTE_BIT, 0, 128 };
    VkPipelineLayoutCreateInfo layout_info = { VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO, .setLayoutCount = 1,
        .pSetLayouts = &set_layout, .pushConstantRangeCount = 1, .pPushConstantRanges = &range };
    CHECK(vkCreatePipelineLayout(device, &layout_info, NULL, &layout));
    VkDescriptorPoolSize pool_size = { VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, MAX_BUFFERS };
    VkDescriptorPoolCreateInfo pool_info = { VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO, .maxSets = 1,
        .poolSizeCount = 1, .pPoolSizes = &pool_size };
    CHECK(vkCreateDescriptorPool(device, &pool_info, NULL, &descriptor_pool));
    VkDescriptorSetAllocateInfo allocate = { VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
        .descriptorPool = descriptor_pool, .descriptorSetCount = 1, .pSetLayouts = &set_layout };
    CHECK(vkAllocateDescriptorSets(device, &allocate, &set));
    for (int i = 0; i < buffer_count; i++) {
        VkDescriptorBufferInfo buffer = { buffers[i].handle, 0, VK_WHOLE_SIZE };
        VkWriteDescriptorSet write = { VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET, .dstSet = set, .dstBinding = i,
            .descriptorCount = 1, .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, .pBufferInfo = &buffer };
        vkUpdateDescriptorSets(device, 1, &write, 0, NULL);
    }
}

static void add_shader(char *path, char *constants)
{
    size_t size;
    uint32_t *code = whole_file(path, &size);
    VkShaderModuleCreateInfo module = { VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = size, .pCode = code };
    CHECK(vkCreateShaderModule(device, &module, NULL, &modules[shader_count]));
    free(code);
    VkSpecializationMapEntry entries[MAX_CONSTANTS];
    uint32_t values[MAX_CONSTANTS], count = 0;
    for (char *word = strtok(constants, " \n"); word && count < MAX_CONSTANTS; word = strtok(NULL, " \n")) {
        char *equals = strchr(word, '=');
        if (!equals) fail("a constant without =", 0);
        values[count] = strtoul(equals + 1, NULL, 0);
        entries[count] = (VkSpecializationMapEntry){ strtoul(word, NULL, 0), 4 * count, 4 };
        count++;
    }
    VkSpecializationInfo special = { count, entries, 4 * count, values };
    VkComputePipelineCreateInfo info = { VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO, .layout = layout,
        .stage = { VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO, .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                   .module = modules[shader_count], .pName = "main", .pSpecializationInfo = &special } };
    CHECK(vkCreateComputePipelines(device, VK_NULL_HANDLE, 1, &info, NULL, &pipelines[shader_count++]));
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static VkCommandBuffer begin(uint32_t family, VkQueryPool *queries)
{
    VkCommandBufferAllocateInfo allocate = { VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = pools[family], .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY, .commandBufferCount = 1 };
    VkCommandBuffer commands;
    CHECK(vkAllocateCommandBuffers(device, &allocate, &commands));
    VkCommandBufferBeginInfo info = { VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
        .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT };
    CHECK(vkBeginCommandBuffer(commands, &info));
    VkQueryPoolCreateInfo pool = { VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO, .queryType = VK_QUERY_TYPE_TIMESTAMP,
        .queryCount = 2 };
    CHECK(vkCreateQueryPool(device, &pool, NULL, queries));
    vkCmdResetQueryPool(commands, *queries, 0, 2);
    vkCmdWriteTimestamp(commands, VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT, *queries, 0);
    vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, layout, 0, 1, &set, 0, NULL);
    return commands;
}

static void barrier(VkCommandBuffer commands)
{
    VkMemoryBarrier all = { VK_STRUCTURE_TYPE_MEMORY_BARRIER, .srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT,
        .dstAccessMask = VK_ACCESS_MEMORY_READ_BIT | VK_ACCESS_MEMORY_WRITE_BIT |
                         VK_ACCESS_INDIRECT_COMMAND_READ_BIT | VK_ACCESS_HOST_READ_BIT };
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
                         VK_PIPELINE_STAGE_ALL_COMMANDS_BIT | VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &all, 0, NULL, 0, NULL);
}

static void finish(const char *name, const char *output, uint32_t family, VkCommandBuffer commands,
                   VkQueryPool queries)
{
    barrier(commands);
    vkCmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries, 1);
    CHECK(vkEndCommandBuffer(commands));
    VkFenceCreateInfo fence_info = { VK_STRUCTURE_TYPE_FENCE_CREATE_INFO };
    VkFence fence;
    CHECK(vkCreateFence(device, &fence_info, NULL, &fence));
    VkSubmitInfo submit = { VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &commands };
    double start = now();
    CHECK(vkQueueSubmit(queues[family], 1, &submit, fence));
    CHECK(vkWaitForFences(device, 1, &fence, VK_TRUE, 120ull * 1000 * 1000 * 1000));
    double seconds = now() - start;
    uint64_t ticks[2] = { 0, 0 };
    if (timestamp_bits[family])
        CHECK(vkGetQueryPoolResults(device, queries, 0, 2, sizeof ticks, ticks, 8, VK_QUERY_RESULT_64_BIT));
    for (int i = 0; i < buffer_count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s.%d", output, name, i);
        FILE *file = fopen(path, "wb");
        if (!file || fwrite(buffers[i].data, 1, buffers[i].size, file) != buffers[i].size || fclose(file))
            fail(path, 0);
        vkDestroyBuffer(device, buffers[i].handle, NULL);
        vkFreeMemory(device, buffers[i].memory, NULL);
    }
    for (int i = 0; i < shader_count; i++) {
        vkDestroyPipeline(device, pipelines[i], NULL);
        vkDestroyShaderModule(device, modules[i], NULL);
    }
    vkDestroyFence(device, fence, NULL);
    vkDestroyQueryPool(device, queries, NULL);
    vkFreeCommandBuffers(device, pools[family], 1, &commands);
    vkDestroyDescriptorPool(device, descriptor_pool, NULL);
    vkDestroyPipelineLayout(device, layout, NULL);
    vkDestroyDescriptorSetLayout(device, set_layout, NULL);
    printf("%s %.6f %llu\n", name, seconds, (unsigned long long)(ticks[1] - ticks[0]));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc < 2 || (strcmp(argv[1], "-") && argc != 4)) fail("usage: runner DRIVER PLAN OUTPUT", argc);
    open_device(argv[1]);
    FILE *plan = fopen(argv[2], "r");
    if (!plan) { perror(argv[2]); return 1; }
    char line[4096], name[256] = "", path[1024];
    uint8_t push[MAX_PUSH];
    uint32_t push_size = 0, family = 0;
    VkCommandBuffer commands = VK_NULL_HANDLE;
    VkQueryPool queries = VK_NULL_HANDLE;
    while (fgets(line, sizeof line, plan)) {
        char word[64] = "";
        int used = 0;
        unsigned a, b, c, d, e;
        unsigned long long size;
        if (sscanf(line, "%63s%n", word, &used) != 1 || word[0] == '#') continue;
        char *rest = line + used;
        if (!strcmp(word, "program")) {
            sscanf(rest, "%255s", name);
            buffer_count = shader_count = 0;
            push_size = family = 0;
            layout = VK_NULL_HANDLE;
            commands = VK_NULL_HANDLE;
        } else if (!strcmp(word, "queue")) {
            if (sscanf(rest, "%u", &family) != 1 || family >= families || !queues[family]) fail(line, family);
        } else if (!strcmp(word, "buffer")) {
            if (sscanf(rest, "%llu %1023s", &size, path) != 2 || buffer_count == MAX_BUFFERS || layout) fail(line, 0);
            add_buffer(size, path);
        } else if (!strcmp(word, "shader")) {
            if (!layout) make_layout();
            if (sscanf(rest, "%1023s%n", path, &used) != 1 || shader_count == MAX_SHADERS) fail(line, 0);
            add_shader(path, rest + used);
        } else if (!strcmp(word, "push")) {
            push_size = 0;
            for (char *at = rest + strspn(rest, " "); push_size < 128 && sscanf(at, "%2x", &a) == 1; at += 2)
                push[push_size++] = a;
        } else if (!strcmp(word, "addresses")) {
            if (sscanf(rest, "%u %u", &a, &b) != 2) fail(line, 0);
            for (; b; a++, b--, push_size += 8) memcpy(push + push_size, &buffers[a].address, 8);
        } else if (!strcmp(word, "end")) {
            if (!commands) fail("a program of nothing", 0);
            finish(name, argv[3], family, commands, queries);
        } else {
            if (!commands) commands = begin(family, &queries);
            if (!strcmp(word, "barrier"))
                barrier(commands);
            else if (sscanf(rest, "%u %u %u %u %u", &a, &b, &c, &d, &e) == 5 && !strcmp(word, "copy")) {
                VkBufferCopy region = { b, d, e };
                vkCmdCopyBuffer(commands, buffers[a].handle, buffers[c].handle, 1, &region);
            } else if (sscanf(rest, "%u %u %u %u", &a, &b, &c, &d) == 4 && !strcmp(word, "fill"))
                vkCmdFillBuffer(commands, buffers[a].handle, b, c, d);
            else if (sscanf(rest, "%u %u %u", &a, &b, &c) == 3 && a < (unsigned)shader_count) {
                vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipelines[a]);
                if (push_size)
                    vkCmdPushConstants(commands, layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, push_size, push);
                if (!strcmp(word, "indirect"))
                    vkCmdDispatchIndirect(commands, buffers[b].handle, c);
                else if (!strcmp(word, "dispatch") && sscanf(rest, "%u %u %u %u", &a, &b, &c, &d) == 4)
                    vkCmdDispatch(commands, b, c, d);
                else fail(line, 1);
            } else fail(line, 2);
        }
    }
    return 0;
}
